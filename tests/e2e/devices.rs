//! Which device a run gets, and what a user is told where the wished one is not to be had.

use super::space::Space;

#[test]
fn doctor_tells_what_there_is_to_people_and_to_scripts() {
    let space = Space::new();
    let told = space.ok(&["doctor", "cpu"]).stdout;
    assert!(told.starts_with(concat!("ablate  ", env!("CARGO_PKG_VERSION"), ", built for the CPU")), "{told}");
    assert!(told.contains("\ncpu     ") && told.ends_with("\ncpu     runs on cpu\n"), "{told}");
    let json = space.json(&["doctor", "cpu"]);
    assert_eq!((&json["asked"], &json["device"]), (&"cpu".into(), &"cpu".into()));
    assert!(json["threads"].as_u64().unwrap() > 0 && json["gpu"]["gpus"].is_array(), "{json}");
}

#[test]
fn a_device_that_nobody_knows_is_wrong_input() {
    let outcome = Space::new().ablate(&["doctor", "gpu1"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("unknown device `gpu1`: write `auto`, `cpu`, `cuda:N` or several"),
        "{}",
        outcome.stderr
    );
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_program_for_the_cpu_says_how_to_build_one_for_gpus() {
    let space = Space::new();
    let outcome = space.ablate(&["doctor", "cuda:0"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("device `cuda:0`") && outcome.stderr.contains("docs/cuda.md"), "{outcome:?}");
    assert_eq!(space.json(&["doctor"])["device"], "cpu");
}

/// A driver is a library of a few functions: these are enough to be looked at, and too few to compute.
#[cfg(feature = "cuda")]
mod drivers {
    use std::path::PathBuf;
    use std::process::Command;

    use crate::space::{Outcome, Space};

    const DRIVER: &str = r#"
        #include <string.h>
        int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
        int cuInit(unsigned flags) { return STATUS; }
        int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
        int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
        int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stand-in", length); return 0; }
        int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? MAJOR : 0; return 0; }
        int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)80 << 30; return 0; }
        int cuGetErrorString(unsigned error, const char **text) {
            *text = error == 100 ? "no CUDA-capable device is detected" : 0;
            return *text ? 0 : 1;
        }
    "#;

    /// Builds a driver that starts with a status and then has so many devices.
    fn driver(space: &Space, status: u32, count: u32) -> PathBuf {
        driver_of(space, &[("STATUS", status), ("COUNT", count), ("VERSION", 12_040), ("MAJOR", 9)])
    }

    fn driver_of(space: &Space, numbers: &[(&str, u32)]) -> PathBuf {
        library(space, "libcuda.so.1", DRIVER, numbers)
    }

    fn library(space: &Space, name: &str, text: &str, numbers: &[(&str, u32)]) -> PathBuf {
        space.write("library.c", text);
        let folder = space.path("driver");
        std::fs::create_dir_all(&folder).unwrap();
        let built = Command::new("cc")
            .args(numbers.iter().map(|(name, number)| format!("-D{name}={number}")))
            .args(["-shared", "-fPIC", "-o"])
            .args([folder.join(name), space.path("library.c")])
            .status();
        assert!(built.unwrap().success());
        folder
    }

    /// Asks with this driver and no other library of CUDA's.
    fn ask(space: &Space, driver: &PathBuf, arguments: &[&str]) -> Outcome {
        let mut command = space.command(arguments);
        for name in ["CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CONDA_PREFIX", "VIRTUAL_ENV", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        let output = command.env("ABLATE_CUDA_PATH", driver).env("CUDA_VISIBLE_DEVICES", "0").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Whether this machine has a driver of its own: then it cannot be seen what happens without one.
    fn has_driver(space: &Space) -> bool {
        !space.json(&["doctor", "cpu"])["gpu"]["driver"].is_null()
    }

    #[test]
    fn without_a_driver_the_same_program_runs_on_the_cpu_and_says_what_a_gpu_lacks() {
        let space = Space::new();
        if has_driver(&space) {
            return;
        }
        let told = space.ok(&["doctor"]).stdout;
        assert!(told.contains("built for the CPU and CUDA") && told.ends_with("auto    runs on cpu\n"), "{told}");
        let outcome = space.ablate(&["doctor", "cuda:0"]);
        assert_eq!(outcome.code, Some(2));
        let expected = ["device `cuda:0`", "no driver of an NVIDIA GPU can be opened", "cannot open libcuda.so.1"];
        assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
    }

    #[test]
    fn a_driver_without_a_device_is_no_reason_not_to_use_the_cpu() {
        let space = Space::new();
        let driver = driver(&space, 100, 0);
        let outcome = ask(&space, &driver, &["doctor"]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains("up to CUDA 12.4") && outcome.stdout.ends_with("runs on cpu\n"), "{outcome:?}");
        let outcome = ask(&space, &driver, &["doctor", "cuda:0"]);
        assert_eq!(outcome.code, Some(2));
        let expected = [
            "does not start: no CUDA-capable device is detected",
            "CUDA_ERROR_NO_DEVICE",
            "CUDA_VISIBLE_DEVICES is `0`",
        ];
        assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
    }

    #[test]
    fn a_driver_that_fails_stops_whoever_did_not_ask_for_the_cpu() {
        let space = Space::new();
        // The second number is one that no version of cudarc knows.
        for (status, name) in [(803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"), (54_321, "CUDA_ERROR_UNKNOWN")] {
            let driver = driver(&space, status, 1);
            let outcome = ask(&space, &driver, &["doctor"]);
            assert_eq!(outcome.code, Some(2), "{outcome:?}");
            let expected = ["device `auto`: choose `cpu`", "does not start", name];
            assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
            assert_eq!(ask(&space, &driver, &["doctor", "cpu"]).code, Some(0));
        }
    }

    #[test]
    fn a_gpu_without_cublas_is_named_with_what_to_do() {
        let space = Space::new();
        let driver = driver(&space, 0, 2);
        let json: serde_json::Value =
            serde_json::from_str(&ask(&space, &driver, &["doctor", "cpu", "--json"]).stdout).unwrap();
        assert_eq!(json["gpu"]["gpus"][1]["name"], "Stand-in");
        assert_eq!(json["gpu"]["gpus"][1]["capability"], "9.0");
        if !json["gpu"]["cublas"].is_null() {
            return; // A CUDA of this machine's own, which no variable hides.
        }
        space.with_experiment("smoke.toml").with_experiment("reasoner.toml");
        for arguments in [&["doctor"][..], &["doctor", "cuda:1"], &["run", "smoke.toml", "--device", "cuda:1"]] {
            let outcome = ask(&space, &driver, arguments);
            assert_eq!(outcome.code, Some(2), "{outcome:?}");
            let expected = ["there is a GPU, but not cuBLAS", "ABLATE_CUDA_PATH", "libcublas.so.12 or libcublas.so.11"];
            assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
        }
    }

    #[test]
    fn what_is_too_old_is_named_before_anything_starts() {
        let space = Space::new();
        let old_card = driver_of(&space, &[("STATUS", 0), ("COUNT", 1), ("VERSION", 12_040), ("MAJOR", 6)]);
        library(&space, "libcublas.so.12", "int cublasLoggerConfigure(void) { return 0; }", &[]);
        let outcome = ask(&space, &old_card, &["doctor"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        let expected = ["device `cuda:0`", "compute capability 6.0 is too old", "7.5 and newer"];
        assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
        let old_driver = driver_of(&space, &[("STATUS", 0), ("COUNT", 1), ("VERSION", 11_010), ("MAJOR", 9)]);
        let outcome = ask(&space, &old_driver, &["doctor"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("supports CUDA up to 11.1, but 11.2 is needed"), "{}", outcome.stderr);
    }

    #[test]
    fn a_driver_that_does_not_open_is_no_missing_driver() {
        let space = Space::new();
        if has_driver(&space) {
            return;
        }
        space.write("driver/libcuda.so.1", "half of an upgrade");
        let outcome = ask(&space, &space.path("driver"), &["doctor"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        let expected =
            ["device `auto`: choose `cpu`", "no driver of an NVIDIA GPU can be opened", "driver/libcuda.so.1"];
        assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
    }

    #[test]
    fn a_run_uses_the_gpus_that_are_named_and_programs_alone_ask_no_driver() {
        let space = Space::new();
        let driver = driver(&space, 0, 2);
        library(&space, "libcublas.so.12", "int cublasLoggerConfigure(void) { return 0; }", &[]);
        space.with_experiment("smoke.toml").with_experiment("reasoner.toml");
        let both = ask(&space, &driver, &["run", "smoke.toml", "--device", "cuda:0", "--gpus", "1"]);
        assert!(both.code == Some(2) && both.stderr.contains("both select GPUs"), "{both:?}");
        let third = ask(&space, &driver, &["run", "smoke.toml", "--gpus", "2"]);
        assert!(third.code == Some(2) && third.stderr.contains("device `cuda:2`"), "{third:?}");
        assert!(third.stderr.contains("this process sees 2 GPU(s)"), "{third:?}");
        let unnumbered = ask(&space, &driver, &["run", "smoke.toml", "--gpus", "GPU-5ebe"]);
        assert!(unnumbered.code == Some(2) && unnumbered.stderr.contains("models need GPU numbers"), "{unnumbered:?}");
        let broken = driver_of(&space, &[("STATUS", 803), ("COUNT", 1), ("VERSION", 12_040), ("MAJOR", 9)]);
        space.write(
            "programs.toml",
            "[stage.hello]\nkind = \"command\"\nrun = \"echo hi > out\"\noutputs = [\"out\"]\n",
        );
        let programs = ask(&space, &broken, &["run", "programs.toml"]);
        assert_eq!(programs.code, Some(0), "{programs:?}");
    }
}
