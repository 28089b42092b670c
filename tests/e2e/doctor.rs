//! `doctor` and device selection.

use super::support::Project;

#[test]
fn doctor_prints_text_and_json() {
    let project = Project::new();
    let printed = project.ok(&["doctor", "cpu"]).stdout;
    assert!(printed.starts_with(concat!("ablate  ", env!("CARGO_PKG_VERSION"), ", built for the CPU")), "{printed}");
    assert!(printed.contains("\ncpu     ") && printed.ends_with("\ncpu     runs on cpu\n"), "{printed}");
    let json = project.json(&["doctor", "cpu"]);
    assert_eq!((&json["asked"], &json["device"]), (&"cpu".into(), &"cpu".into()));
    assert!(json["threads"].as_u64().unwrap() > 0 && json["gpu"]["gpus"].is_array(), "{json}");
}

#[test]
fn unknown_device_is_wrong_input() {
    let outcome = Project::new().ablate(&["doctor", "gpu1"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("unknown device `gpu1`: write `auto`, `cpu`, `cuda:N` or several"),
        "{}",
        outcome.stderr
    );
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cpu_build_explains_how_to_build_for_gpus() {
    let project = Project::new();
    let outcome = project.ablate(&["doctor", "cuda:0"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("device `cuda:0`") && outcome.stderr.contains("docs/cuda.md"), "{outcome:?}");
    assert_eq!(project.json(&["doctor"])["device"], "cpu");
}

/// Tests with a fake CUDA driver: a library with the few functions that a query needs.
#[cfg(feature = "cuda")]
mod drivers {
    use std::path::PathBuf;
    use std::process::Command;

    use crate::support::{Outcome, Project};

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

    /// Builds a driver with a start status and a number of devices.
    fn driver(project: &Project, status: u32, count: u32) -> PathBuf {
        driver_of(project, &[("STATUS", status), ("COUNT", count), ("VERSION", 12_040), ("MAJOR", 9)])
    }

    fn driver_of(project: &Project, numbers: &[(&str, u32)]) -> PathBuf {
        library(project, "libcuda.so.1", DRIVER, numbers)
    }

    fn library(project: &Project, name: &str, text: &str, numbers: &[(&str, u32)]) -> PathBuf {
        project.write("library.c", text);
        let folder = project.path("driver");
        std::fs::create_dir_all(&folder).unwrap();
        let built = Command::new("cc")
            .args(numbers.iter().map(|(name, number)| format!("-D{name}={number}")))
            .args(["-shared", "-fPIC", "-o"])
            .args([folder.join(name), project.path("library.c")])
            .status();
        assert!(built.unwrap().success());
        folder
    }

    /// Runs `ablate` with this driver and no other CUDA library.
    fn run_with(project: &Project, driver: &PathBuf, arguments: &[&str]) -> Outcome {
        let mut command = project.command(arguments);
        for name in ["CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CONDA_PREFIX", "VIRTUAL_ENV", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        let output = command.env("ABLATE_CUDA_PATH", driver).env("CUDA_VISIBLE_DEVICES", "0").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Whether this machine has a real driver, so that its absence cannot be tested.
    fn has_driver(project: &Project) -> bool {
        !project.json(&["doctor", "cpu"])["gpu"]["driver"].is_null()
    }

    #[test]
    fn without_a_driver_the_cpu_is_used() {
        let project = Project::new();
        if has_driver(&project) {
            return;
        }
        let printed = project.ok(&["doctor"]).stdout;
        assert!(
            printed.contains("built for the CPU and CUDA") && printed.ends_with("auto    runs on cpu\n"),
            "{printed}"
        );
        let outcome = project.ablate(&["doctor", "cuda:0"]);
        assert_eq!(outcome.code, Some(2));
        let expected = ["device `cuda:0`", "no driver of an NVIDIA GPU can be opened", "cannot open libcuda.so.1"];
        assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
    }

    #[test]
    fn driver_without_a_device_falls_back_to_the_cpu() {
        let project = Project::new();
        let driver = driver(&project, 100, 0);
        let outcome = run_with(&project, &driver, &["doctor"]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains("up to CUDA 12.4") && outcome.stdout.ends_with("runs on cpu\n"), "{outcome:?}");
        let outcome = run_with(&project, &driver, &["doctor", "cuda:0"]);
        assert_eq!(outcome.code, Some(2));
        let expected = [
            "does not start: no CUDA-capable device is detected",
            "CUDA_ERROR_NO_DEVICE",
            "CUDA_VISIBLE_DEVICES is `0`",
        ];
        assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
    }

    #[test]
    fn failing_driver_is_an_error_unless_cpu_is_selected() {
        let project = Project::new();
        // cudarc does not know the second number.
        for (status, name) in [(803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"), (54_321, "CUDA_ERROR_UNKNOWN")] {
            let driver = driver(&project, status, 1);
            let outcome = run_with(&project, &driver, &["doctor"]);
            assert_eq!(outcome.code, Some(2), "{outcome:?}");
            let expected = ["device `auto`: choose `cpu`", "does not start", name];
            assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
            assert_eq!(run_with(&project, &driver, &["doctor", "cpu"]).code, Some(0));
        }
    }

    #[test]
    fn missing_cublas_is_reported() {
        let project = Project::new();
        let driver = driver(&project, 0, 2);
        let json: serde_json::Value =
            serde_json::from_str(&run_with(&project, &driver, &["doctor", "cpu", "--json"]).stdout).unwrap();
        assert_eq!(json["gpu"]["gpus"][1]["name"], "Stand-in");
        assert_eq!(json["gpu"]["gpus"][1]["capability"], "9.0");
        if !json["gpu"]["cublas"].is_null() {
            return; // This machine has a CUDA installation that no variable hides.
        }
        project.with_experiment("smoke.toml").with_experiment("reasoner.toml");
        for arguments in [&["doctor"][..], &["doctor", "cuda:1"], &["run", "smoke.toml", "--device", "cuda:1"]] {
            let outcome = run_with(&project, &driver, arguments);
            assert_eq!(outcome.code, Some(2), "{outcome:?}");
            let expected = ["there is a GPU, but not cuBLAS", "ABLATE_CUDA_PATH", "libcublas.so.12 or libcublas.so.11"];
            assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
        }
    }

    #[test]
    fn old_gpu_or_driver_is_reported() {
        let project = Project::new();
        let old_card = driver_of(&project, &[("STATUS", 0), ("COUNT", 1), ("VERSION", 12_040), ("MAJOR", 6)]);
        library(&project, "libcublas.so.12", "int cublasLoggerConfigure(void) { return 0; }", &[]);
        let outcome = run_with(&project, &old_card, &["doctor"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        let expected = ["device `cuda:0`", "compute capability 6.0 is too old", "7.5 and newer"];
        assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
        let old_driver = driver_of(&project, &[("STATUS", 0), ("COUNT", 1), ("VERSION", 11_010), ("MAJOR", 9)]);
        let outcome = run_with(&project, &old_driver, &["doctor"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("supports CUDA up to 11.1, but 11.2 is needed"), "{}", outcome.stderr);
    }

    #[test]
    fn broken_driver_is_not_a_missing_driver() {
        let project = Project::new();
        if has_driver(&project) {
            return;
        }
        project.write("driver/libcuda.so.1", "half of an upgrade");
        let outcome = run_with(&project, &project.path("driver"), &["doctor"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        let expected =
            ["device `auto`: choose `cpu`", "no driver of an NVIDIA GPU can be opened", "driver/libcuda.so.1"];
        assert!(expected.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
    }

    #[test]
    fn run_uses_the_selected_gpus() {
        let project = Project::new();
        let driver = driver(&project, 0, 2);
        library(&project, "libcublas.so.12", "int cublasLoggerConfigure(void) { return 0; }", &[]);
        project.with_experiment("smoke.toml").with_experiment("reasoner.toml");
        let both = run_with(&project, &driver, &["run", "smoke.toml", "--device", "cuda:0", "--gpus", "1"]);
        assert!(both.code == Some(2) && both.stderr.contains("both select GPUs"), "{both:?}");
        let third = run_with(&project, &driver, &["run", "smoke.toml", "--gpus", "2"]);
        assert!(third.code == Some(2) && third.stderr.contains("device `cuda:2`"), "{third:?}");
        assert!(third.stderr.contains("this process sees 2 GPU(s)"), "{third:?}");
        let unnumbered = run_with(&project, &driver, &["run", "smoke.toml", "--gpus", "GPU-5ebe"]);
        assert!(unnumbered.code == Some(2) && unnumbered.stderr.contains("models need GPU numbers"), "{unnumbered:?}");
        let broken = driver_of(&project, &[("STATUS", 803), ("COUNT", 1), ("VERSION", 12_040), ("MAJOR", 9)]);
        project.write(
            "programs.toml",
            "[stage.hello]\nkind = \"command\"\nrun = \"echo hi > out\"\noutputs = [\"out\"]\n",
        );
        let programs = run_with(&project, &broken, &["run", "programs.toml"]);
        assert_eq!(programs.code, Some(0), "{programs:?}");
    }
}
