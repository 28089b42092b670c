//! What processes see of the environment and of each other. Starts none.
//!
//! A process reads the environment and the memory of any other of the same user through `/proc`. So no process below the
//! engine has the engine's environment, and those that hold secrets are closed to others ([`hide_memory`]).

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// Variables of the engine's that its own stages see: where programs, libraries, GPUs and temporary files are.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "TZ",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "ABLATE_CUDA_PATH",
    "ABLATE_LOG",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
];

/// Beginnings of the names of others.
const KEPT_PREFIXES: &[&str] = &["LC_", "CUDA_", "NVIDIA_"];

/// The environment of a stage of a kind of our own.
pub(super) fn environment(threads: usize) -> Vec<(String, String)> {
    // One that is not UTF-8 could not be sent to the process that starts the stage.
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut environment: Vec<(String, String)> = all.filter(|(name, _)| is_kept(name)).collect();
    environment.push(("RAYON_NUM_THREADS".to_string(), threads.to_string()));
    environment
}

fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The values of those of the named variables that are set.
pub(super) fn values(names: &[String]) -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for name in names {
        match std::env::var(name) {
            Ok(value) => drop(values.insert(name.clone(), value)),
            Err(std::env::VarError::NotPresent) => {}
            Err(std::env::VarError::NotUnicode(_)) => bail!("the variable `{name}` of the environment is not UTF-8"),
        }
    }
    Ok(values)
}

/// Closes this process's environment and memory to other processes of the same user, and keeps both out of core dumps.
/// Those of root, or with the right to trace any process, are not kept out.
pub fn hide_memory() {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_sees_where_things_are_and_no_key() {
        for name in ["PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "ABLATE_CUDA_PATH"] {
            assert!(is_kept(name), "{name}");
        }
        for name in ["OPENAI_API_KEY", "ABLATE_KEY", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK"] {
            assert!(!is_kept(name), "{name}");
        }
        assert!(environment(3).contains(&("RAYON_NUM_THREADS".to_string(), "3".to_string())));
        let values = values(&["PATH".to_string(), "ABLATE_TEST_NO_SUCH_VARIABLE".to_string()]).unwrap();
        assert_eq!(values.into_keys().collect::<Vec<_>>(), ["PATH"]);
    }
}
