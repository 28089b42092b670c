//! Checkpoints written back: the same arrays under the same names, bit by bit. With `ABLATE_PARITY` they are kept for
//! transformers to read.

use std::path::Path;

use anyhow::Result;

use ablate_core::base::files;
use ablate_data::conversation::parity::Tally;
use ablate_nn::Checkpoint;
use ablate_nn::checkpoint::Rounding;
use ablate_nn::hub::Folder;
use ablate_nn::parity::{Case, given};
use crate::stages::model::carry_companions;

/// Reads, writes and reads again; compares every array of the source.
pub(super) fn round_trip(case: &Case) -> Result<Tally> {
    let temporary = tempfile::tempdir()?;
    let exact = temporary.path().join("exact");
    case.checkpoint.write(&exact)?;
    let mut tally = same_arrays(&case.folder, &exact)?;
    if Checkpoint::read(&exact)? != case.checkpoint {
        tally.wrong.push("what was written is read as another checkpoint".to_string());
    }
    let kept = given().map(|root| root.join("exported").join(files::name_of(&case.folder)));
    let exported = kept.unwrap_or_else(|| temporary.path().join("exported"));
    if exported.exists() {
        files::remove_dir(&exported)?;
    }
    // As the stage `export` does.
    case.checkpoint.write_rounded(&exported, Rounding::AsImported)?;
    carry_companions(&case.checkpoint, &case.folder, &exported)?;
    tally.wrong.extend(same_arrays(&case.folder, &exported)?.wrong);
    Ok(tally)
}

fn same_arrays(source: &Path, written: &Path) -> Result<Tally> {
    let (source, written) = (Folder::open(source)?, Folder::open(written)?);
    let mut tally = Tally { right: 0, wrong: Vec::new() };
    for name in source.names() {
        let same = || -> Result<bool> {
            let (shape, dtype) = (source.shape(name)?, source.dtype(name)?);
            let (one, other) = (source.array(name, shape)?, written.array(name, shape)?);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            Ok(dtype == written.dtype(name)? && bits(&one) == bits(&other))
        };
        match same() {
            Ok(true) => tally.right += 1,
            Ok(false) => tally.wrong.push(format!("`{name}` has changed")),
            Err(error) => tally.wrong.push(format!("`{name}`: {error:#}")),
        }
    }
    tally.wrong.extend(written.names().filter(|name| !source.has(name)).map(|name| format!("`{name}` is new")));
    Ok(tally)
}
