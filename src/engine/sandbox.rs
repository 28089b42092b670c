//! The sandbox of a program: a new folder with its inputs by name, and a defined environment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::environment::{cuda_visible_device, declared_variables, passed_variables};
use ablate_core::base::{files, modes};
use ablate_core::stage::Program;

/// The `PATH` of a program that does not ask for the user's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of input files that are copied for one program if the file system cannot share blocks. Larger files are data
/// and become links.
const COPY_LIMIT: u64 = 256 << 20;

#[derive(Debug)]
pub struct Sandbox {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub dir: PathBuf,
    /// The folder of the outputs, which is the sandbox itself.
    pub out: PathBuf,
}

/// What a program learns about its execution from the environment.
pub(super) struct ProgramContext<'a> {
    /// Seed of the instance.
    pub(super) seed: u64,
    /// The devices that the program may use exclusively, such as `cuda:1`; empty on the CPU.
    pub(super) devices: &'a [String],
    /// The variables of the cluster's queue, if it runs in a job.
    pub(super) queue: &'a [(String, String)],
}

/// An input of a program.
pub(super) enum SandboxInput {
    /// A sealed file in the store. It becomes a link.
    Object(PathBuf),
    /// Files by their names relative to the input; the name of a single file is empty. They are copied: a script then
    /// finds only declared inputs next to itself, and a program cannot change the originals.
    Files { files: Vec<(String, PathBuf)>, external: bool },
    /// The kind of the stage writes it before the program starts.
    WrittenByKind,
}

/// Creates a sandbox in a folder that no earlier attempt used, because processes of that attempt may still write there.
/// `note` receives a message if some inputs are links instead of copies.
pub(super) fn prepare(
    folder: PathBuf,
    program: &Program,
    input: &dyn Fn(&str) -> Result<SandboxInput>,
    context: &ProgramContext,
    note: &dyn Fn(String),
) -> Result<Sandbox> {
    files::create_dir(&folder)?;
    let mut copies = Vec::new();
    for (role, name) in &program.input_names {
        let path = folder.join(name);
        match input(role)? {
            SandboxInput::Object(object) => files::symlink(&object, &path)?,
            SandboxInput::WrittenByKind => {}
            SandboxInput::Files { files, external } => {
                if files.iter().all(|(name, _)| !name.is_empty()) {
                    files::create_dir(&path)?;
                }
                let target = |name: &str| if name.is_empty() { path.clone() } else { path.join(name) };
                copies.extend(files.into_iter().map(|(name, from)| InputCopy { from, to: target(&name), external }));
            }
        }
    }
    copy_inputs(copies, COPY_LIMIT, note)?;
    let dir = folder.join(&program.working_dir);
    if !program.working_dir.is_empty() {
        files::create_dir(&dir)?;
    }
    Ok(Sandbox { argv: program.argv.clone(), env: environment(program, &folder, context, note)?, dir, out: folder })
}

fn environment(
    program: &Program,
    folder: &Path,
    context: &ProgramContext,
    note: &dyn Fn(String),
) -> Result<Vec<(String, String)>> {
    let folder = folder.to_str().context("the path of the store is not UTF-8")?;
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let devices = context.devices.iter().map(|device| cuda_visible_device(device, visible.as_deref()));
    let devices: Vec<&str> = devices.collect::<Result<_>>()?;
    let mut env: BTreeMap<String, String> = [
        ("PATH", PATH),
        ("LANG", "C.UTF-8"),
        ("HOME", folder),
        ("TMPDIR", folder),
        ("ABLATE_SEED", &context.seed.to_string()),
        ("CUDA_VISIBLE_DEVICES", &devices.join(",")),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into();
    let (passed, missing) = passed_variables(&program.passed_env)?;
    env.extend(context.queue.iter().cloned());
    for name in missing {
        note(format!("no environment variable `{name}` is set, which `env.pass` names"));
    }
    // A pattern such as `ABLATE_*` does not replace the variables that ablate sets; a name such as `PATH` does.
    let named = |name: &String| program.passed_env.contains(name);
    env.extend(passed.into_iter().filter(|(name, _)| named(name) || !env.contains_key(name)).collect::<Vec<_>>());
    env.extend(declared_variables(&program.inherited_env)?);
    env.extend(program.env.iter().cloned());
    Ok(env.into_iter().collect())
}

/// An input file to copy.
struct InputCopy {
    from: PathBuf,
    to: PathBuf,
    /// Whether it is a file of the user, which can change while the program runs.
    external: bool,
}

/// Copies files, the smallest first, until `limit` bytes are copied. Every further file shares its blocks with the
/// original, or becomes a link if the file system cannot share blocks.
fn copy_inputs(copies: Vec<InputCopy>, limit: u64, note: &dyn Fn(String)) -> Result<()> {
    let mut by_size = Vec::with_capacity(copies.len());
    for copy in copies {
        let metadata = fs::metadata(&copy.from)
            .with_context(|| format!("cannot read the metadata of `{}`", copy.from.display()))?;
        by_size.push((metadata.len(), modes::is_executable(&metadata), copy));
    }
    by_size.sort_by_key(|(size, ..)| *size);
    let (mut left, mut links) = (limit, Vec::new());
    for (size, executable, InputCopy { from, to, external }) in &by_size {
        if *size <= left {
            files::copy(from, to)?;
            left -= size;
        } else {
            // All further files are at least as large.
            left = 0;
            if let Some(folder) = to.parent() {
                files::create_dir(folder)?;
            }
            if !files::reflink(from, to)? {
                files::symlink(&absolute(from)?, to)?;
                links.extend(external.then_some((*size, from)));
                continue;
            }
        }
        modes::set_default(to, *executable)?;
    }
    if let Some((_, first)) = links.first() {
        let (count, bytes) = (links.len(), links.iter().map(|(size, _)| size).sum::<u64>());
        note(format!(
            "{count} input files ({bytes} bytes) are links, because at most {limit} bytes are copied: the first is `{}`",
            first.display()
        ));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("`{}` cannot be made absolute", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn small_files_are_copied_and_large_ones_linked() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let names = ["large.bin", "script.py", "tool.sh"];
        for (name, size) in names.into_iter().zip([1000, 10, 20]) {
            files::write_unsynced(&path(name), &vec![b'x'; size]).unwrap();
        }
        modes::set_default(&path("tool.sh"), true).unwrap();
        let copy = |name| InputCopy { from: path(name), to: path(&format!("sandbox/in/{name}")), external: true };
        let copies = names.map(copy).into_iter().collect();
        let notes = RefCell::new(Vec::new());
        copy_inputs(copies, 100, &|text| notes.borrow_mut().push(text)).unwrap();
        for name in names {
            let copied = path(&format!("sandbox/in/{name}"));
            assert_eq!(files::read_bytes(&copied).unwrap(), files::read_bytes(&path(name)).unwrap());
            assert_eq!(modes::is_executable(&fs::metadata(&copied).unwrap()), name == "tool.sh");
        }
        assert!(!path("sandbox/in/script.py").is_symlink());
        // If the file system can share blocks, no file is a link.
        if path("sandbox/in/large.bin").is_symlink() {
            let first = path("large.bin");
            let note = "1 input files (1000 bytes) are links, because at most 100 bytes are copied: the first is";
            assert_eq!(notes.into_inner(), [format!("{note} `{}`", first.display())]);
        }
    }
}
