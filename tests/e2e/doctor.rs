//! `doctor` and device selection.

use crate::support::Project;

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

/// The config of Llama 3's 8B.
const LLAMA_8B: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": false,
    "hidden_act": "silu"
}"#;

#[test]
fn doctor_estimates_the_memory_of_a_model() {
    let project = Project::new();
    project.write("llama/config.json", LLAMA_8B);
    let adapter = ["doctor", "cpu", "--model", "llama", "--precision", "bf16", "--lora", "16", "--batch", "4"];
    let printed = project.ok(&adapter).stdout;
    assert!(printed.contains("\nmodel   8.03 billion parameters; 4 x 2048 tokens\n"), "{printed}");
    for used in ["training", "training with gradient_checkpointing", "generation"] {
        assert!(printed.contains(&format!("        {used}: ")) && printed.contains("weights 15.0"), "{printed}");
    }
    let bytes = |arguments: &[&str], used: &str| {
        project.json(arguments)["model"]["memory"][used]["bytes"].as_f64().unwrap() / 1e9
    };
    assert!(bytes(&adapter, "gradient_checkpointing") < 30.0 && bytes(&adapter, "training") > 40.0);
    assert!(bytes(&["doctor", "cpu", "--model", "llama", "--precision", "bf16"], "gradient_checkpointing") > 140.0);
    project.fails(2, &["doctor", "cpu", "--model", "missing"]).stderr_has(&["missing/config.json"]);
    for (wrong, message) in [
        (["--images", "1"], "without a vision tower"),
        (["--positions", "999999"], "the model's `max_positions` is"),
        (["--positions", "1"], "has no room for a response"),
    ] {
        project.fails(2, &[&adapter[..], &wrong].concat()).stderr_has(&[message]);
    }
    let model = ["doctor", "cpu", "--model", "llama"];
    project.fails(2, &[&model[..], &["--batch", "99999999999"]].concat()).stderr_has(&["too many for an estimate"]);
    project
        .fails(2, &[&model[..], &["--lora", "99999999999"]].concat())
        .stderr_has(&["an adapter of rank 99999999999"]);
}

#[test]
fn unknown_device_is_wrong_input() {
    let outcome = Project::new().fails(2, &["doctor", "gpu1"]);
    outcome.stderr_has(&["unknown device `gpu1`: write `auto`, `cpu`, `cuda:N` or several"]);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cpu_build_explains_how_to_build_for_gpus() {
    let project = Project::new();
    project.fails(2, &["doctor", "cuda:0"]).stderr_has(&["device `cuda:0`", "docs/cuda.md"]);
    assert_eq!(project.json(&["doctor"])["device"], "cpu");
}

/// Tests with a fake CUDA driver: a library with the few functions that a query needs.
#[cfg(feature = "cuda")]
mod drivers {
    use std::path::PathBuf;
    use std::process::Command;

    use crate::support::{Outcome, Project, command_stage};

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
        driver_of(project, status, count, 12_040, 9)
    }

    fn driver_of(project: &Project, status: u32, count: u32, version: u32, major: u32) -> PathBuf {
        let numbers = [("STATUS", status), ("COUNT", count), ("VERSION", version), ("MAJOR", major)];
        library(project, "libcuda.so.1", DRIVER, &numbers)
    }

    /// Builds a cuBLAS with the function that a query looks up.
    fn cublas(project: &Project) {
        library(project, "libcublas.so.12", "int cublasLoggerConfigure(void) { return 0; }", &[]);
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
        project.finish(command.env("ABLATE_CUDA_PATH", driver).env("CUDA_VISIBLE_DEVICES", "0"))
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
        let expected = ["device `cuda:0`", "no driver of an NVIDIA GPU can be opened", "cannot open libcuda.so.1"];
        project.fails(2, &["doctor", "cuda:0"]).stderr_has(&expected);
    }

    #[test]
    fn driver_without_a_device_falls_back_to_the_cpu() {
        let project = Project::new();
        let driver = driver(&project, 100, 0);
        let outcome = run_with(&project, &driver, &["doctor"]).exited(0);
        assert!(outcome.stdout.contains("up to CUDA 12.4") && outcome.stdout.ends_with("runs on cpu\n"), "{outcome:?}");
        run_with(&project, &driver, &["doctor", "cuda:0"]).exited(2).stderr_has(&[
            "does not start: no CUDA-capable device is detected",
            "CUDA_ERROR_NO_DEVICE",
            "CUDA_VISIBLE_DEVICES is `0`",
        ]);
    }

    #[test]
    fn failing_driver_is_an_error_unless_cpu_is_selected() {
        let project = Project::new();
        // cudarc does not know the second number.
        for (status, name) in [(803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"), (54_321, "CUDA_ERROR_UNKNOWN")] {
            let driver = driver(&project, status, 1);
            let expected = ["device `auto`: choose `cpu`", "does not start", name];
            run_with(&project, &driver, &["doctor"]).exited(2).stderr_has(&expected);
            run_with(&project, &driver, &["doctor", "cpu"]).exited(0);
        }
    }

    #[test]
    fn missing_cublas_is_reported() {
        let project = Project::smoke();
        let driver = driver(&project, 0, 2);
        let json: serde_json::Value =
            serde_json::from_str(&run_with(&project, &driver, &["doctor", "cpu", "--json"]).stdout).unwrap();
        assert_eq!(json["gpu"]["gpus"][1]["name"], "Stand-in");
        assert_eq!(json["gpu"]["gpus"][1]["capability"], "9.0");
        if !json["gpu"]["cublas"].is_null() {
            return; // This machine has a CUDA installation that no variable hides.
        }
        for arguments in [&["doctor"][..], &["doctor", "cuda:1"], &["run", "smoke.toml", "--device", "cuda:1"]] {
            let expected = ["there is a GPU, but not cuBLAS", "ABLATE_CUDA_PATH", "libcublas.so.12 or libcublas.so.11"];
            run_with(&project, &driver, arguments).exited(2).stderr_has(&expected);
        }
    }

    #[test]
    fn old_gpu_or_driver_is_reported() {
        let project = Project::new();
        cublas(&project);
        let old_card = driver_of(&project, 0, 1, 12_040, 6);
        let expected = ["device `cuda:0`", "compute capability 6.0 is too old", "7.5 and newer"];
        run_with(&project, &old_card, &["doctor"]).exited(2).stderr_has(&expected);
        let old_driver = driver_of(&project, 0, 1, 11_010, 9);
        let expected = ["supports CUDA up to 11.1, but 11.2 is needed"];
        run_with(&project, &old_driver, &["doctor"]).exited(2).stderr_has(&expected);
    }

    #[test]
    fn broken_driver_is_not_a_missing_driver() {
        let project = Project::new();
        if has_driver(&project) {
            return;
        }
        project.write("driver/libcuda.so.1", "half of an upgrade");
        let expected =
            ["device `auto`: choose `cpu`", "no driver of an NVIDIA GPU can be opened", "driver/libcuda.so.1"];
        run_with(&project, &project.path("driver"), &["doctor"]).exited(2).stderr_has(&expected);
    }

    #[test]
    fn run_uses_the_selected_gpus() {
        let project = Project::smoke();
        let healthy = driver(&project, 0, 2);
        cublas(&project);
        for (options, parts) in [
            (&["--device", "cuda:0", "--gpus", "1"][..], &["both select GPUs"][..]),
            (&["--gpus", "2"], &["device `cuda:2`", "this process sees 2 GPU(s)"]),
            (&["--gpus", "GPU-5ebe"], &["models need GPU numbers"]),
        ] {
            run_with(&project, &healthy, &[&["run", "smoke.toml"], options].concat()).exited(2).stderr_has(parts);
        }
        let broken = driver(&project, 803, 1);
        project.write_study(&command_stage("hello", "", "echo hi > out", "'out'"));
        run_with(&project, &broken, &["run", "study.toml"]).exited(0);
    }
}
