//! The environment variables that child processes see.
//!
//! Any process of the same user can read the environment and the memory of another one through `/proc`. So no child
//! process inherits the engine's environment, and a process that holds secrets calls [`hide_memory`].

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::{Context, Result, bail};

/// Variables that built-in kinds inherit: the places of programs, libraries, GPUs and temporary files.
const INHERITED: &[&str] = &[
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

/// Prefixes of the names of further inherited variables.
const INHERITED_PREFIXES: &[&str] = &["LC_", "CUDA_", "NVIDIA_"];

/// Further variables that git and the command of `notify` inherit: the user, the desktop and places of configuration.
const HELPER: &[&str] = &[
    "USER",
    "LOGNAME",
    "SHELL",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
];

/// The environment of git and of the command of `notify`.
pub(super) fn for_helper() -> impl Iterator<Item = (OsString, OsString)> {
    let is_wanted = |name: &str| is_inherited(name) || HELPER.contains(&name);
    std::env::vars_os().filter(move |(name, _)| name.to_str().is_some_and(is_wanted))
}

/// The environment of a job of a built-in kind.
pub(super) fn for_job(threads: usize) -> Vec<(String, String)> {
    // The request to the supervisor is JSON, which cannot hold a value that is not UTF-8.
    let all = std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
    let threads = ("RAYON_NUM_THREADS".to_string(), threads.to_string());
    all.filter(|(name, _)| is_inherited(name)).chain([threads]).collect()
}

fn is_inherited(name: &str) -> bool {
    INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The values of the named variables. A variable that is not set is left out.
pub(super) fn declared_variables(names: &[String]) -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for name in names {
        match std::env::var(name) {
            Ok(value) => drop(values.insert(name.clone(), value)),
            Err(std::env::VarError::NotPresent) => {}
            Err(std::env::VarError::NotUnicode(_)) => bail!("the environment variable `{name}` is not UTF-8"),
        }
    }
    Ok(values)
}

/// The values of the named variables and of those that a pattern such as `HF_*` names, and the names and patterns that
/// name no variable.
pub(super) fn passed_variables(names: &[String]) -> Result<(BTreeMap<String, String>, Vec<String>)> {
    let (mut values, mut missing) = (BTreeMap::new(), Vec::new());
    for name in names {
        let named = match name.strip_suffix('*') {
            None => vec![name.clone()],
            Some(prefix) => {
                let all = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
                all.filter(|name| name.starts_with(prefix)).collect()
            }
        };
        let found = declared_variables(&named)?;
        if found.is_empty() {
            missing.push(name.clone());
        }
        values.extend(found);
    }
    Ok((values, missing))
}

/// The id that a program needs in `CUDA_VISIBLE_DEVICES` to see a device such as `cuda:1`. The number in `device` counts
/// the devices that this process sees, and `visible` (this process's `CUDA_VISIBLE_DEVICES`) may already be a selection.
/// A UUID has the same meaning in every process.
pub(super) fn cuda_visible_device<'a>(device: &'a str, visible: Option<&'a str>) -> Result<&'a str> {
    let id = device.split_once(':').map_or(device, |(_, id)| id);
    let (Some(visible), Ok(number)) = (visible, id.parse::<usize>()) else { return Ok(id) };
    // CUDA reads the list up to the first entry that is not a device, such as `-1` or `NoDevFiles`, which hide all.
    let is_device = |id: &&str| id.parse::<usize>().is_ok() || id.starts_with("GPU-") || id.starts_with("MIG-");
    let mut ids = visible.split(',').map(str::trim).take_while(is_device);
    let count = ids.clone().count();
    ids.nth(number).with_context(|| {
        format!("there is no GPU {number}: CUDA_VISIBLE_DEVICES is `{visible}`, which shows {count}, numbered from 0")
    })
}

/// Denies other processes of the same user access to the memory and environment of this process, and disables its core
/// dumps. Root, and processes that may trace any process, still have access.
pub fn hide_memory() {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_inherits_places_and_no_secrets() {
        for name in ["PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "ABLATE_CUDA_PATH"] {
            assert!(is_inherited(name), "{name}");
        }
        for name in ["OPENAI_API_KEY", "ABLATE_KEY", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK"] {
            assert!(!is_inherited(name), "{name}");
            assert!(!HELPER.contains(&name), "{name}");
        }
        assert!(for_job(3).contains(&("RAYON_NUM_THREADS".to_string(), "3".to_string())));
        let values = declared_variables(&["PATH".to_string(), "ABLATE_TEST_NO_SUCH_VARIABLE".to_string()]).unwrap();
        assert_eq!(values.into_keys().collect::<Vec<_>>(), ["PATH"]);
        let names = ["PAT*", "ABLATE_TEST_NO_SUCH_VARIABLE", "ABLATE_TEST_NO_SUCH_*"].map(str::to_string);
        let (values, missing) = passed_variables(&names).unwrap();
        assert!(values.contains_key("PATH"));
        assert_eq!(missing, names[1..]);
    }

    #[test]
    fn gpu_numbers_count_the_visible_devices() {
        let id = |device, visible| cuda_visible_device(device, visible).unwrap();
        assert_eq!(id("cuda:1", None), "1");
        assert_eq!(id("cuda:1", Some("4, 7")), "7");
        assert_eq!(id("cuda:0", Some("GPU-5ebe9fb8,GPU-0c2b")), "GPU-5ebe9fb8");
        assert_eq!(id("cuda:GPU-0c2b", Some("4,7")), "GPU-0c2b");
    }

    #[test]
    fn a_gpu_that_is_not_visible_is_an_error() {
        let error = |device, visible| cuda_visible_device(device, Some(visible)).unwrap_err().to_string();
        let expected = "there is no GPU 2: CUDA_VISIBLE_DEVICES is `4,7`, which shows 2, numbered from 0";
        assert_eq!(error("cuda:2", "4,7"), expected);
        for none in ["", "-1", "NoDevFiles", "-1,0"] {
            assert!(error("cuda:0", none).ends_with("which shows 0, numbered from 0"), "{none}");
        }
        assert!(error("cuda:1", "4,,7").ends_with("which shows 1, numbered from 0"));
    }
}
