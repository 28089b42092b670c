//! The file of requests of a batch: one line of JSON per request. Its bytes depend only on the requests, in their order.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use ablate_core::base::{Hash, files};

/// Limits of one file.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub requests: usize,
    pub bytes: u64,
}

impl Default for BatchLimits {
    /// Those of OpenAI, which has 50,000 requests, and of Azure, which has 100 MiB.
    fn default() -> BatchLimits {
        BatchLimits { requests: 50_000, bytes: 100 << 20 }
    }
}

/// Writes lines for the first of `keys` until a limit is reached, and returns their number. There is at least one.
pub(super) fn write(
    path: &Path,
    url: &str,
    keys: &[Hash],
    limits: BatchLimits,
    body: &dyn Fn(usize) -> Result<Vec<u8>>,
) -> Result<usize> {
    let context = || format!("cannot write `{}`", path.display());
    let mut file = BufWriter::with_capacity(1 << 18, files::create(path)?);
    let (mut count, mut bytes) = (0, 0);
    for (number, key) in keys.iter().enumerate().take(limits.requests.max(1)) {
        let mut line =
            format!("{{\"custom_id\":\"{key}\",\"method\":\"POST\",\"url\":\"{url}\",\"body\":").into_bytes();
        line.extend(body(number)?);
        line.extend(b"}\n");
        bytes += line.len() as u64;
        if bytes > limits.bytes && count > 0 {
            break;
        }
        file.write_all(&line).with_context(context)?;
        count += 1;
    }
    file.flush().with_context(context)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_split_at_either_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.jsonl");
        let keys: Vec<Hash> = (0..5_u8).map(|number| Hash::of_bytes(&[number])).collect();
        let body = |number: usize| Ok(format!("{{\"n\":{number}}}").into_bytes());
        let write = |requests, bytes| write(&path, "/v1/x", &keys, BatchLimits { requests, bytes }, &body).unwrap();
        assert_eq!(write(50, 1 << 20), 5);
        let whole = files::read_text(&path).unwrap();
        let line = whole.lines().next().unwrap();
        let expected =
            format!("{{\"custom_id\":\"{}\",\"method\":\"POST\",\"url\":\"/v1/x\",\"body\":{{\"n\":0}}}}", keys[0]);
        assert_eq!((line, whole.lines().count()), (&*expected, 5));
        assert_eq!((write(3, 1 << 20), write(50, 2 * (line.len() as u64 + 1)), write(50, 1)), (3, 2, 1));
        assert_eq!(files::read_text(&path).unwrap(), format!("{line}\n"));
    }
}
