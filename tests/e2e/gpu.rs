//! Models on a GPU, real or emulated (`tests/emulated-gpu/run.sh`), against the same experiment on the CPU.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use crate::support::{Outcome, Project};

/// Runs the smoke experiment on a device.
fn run(project: &Project, device: &str, more: &[&str]) -> Outcome {
    let mut command = project.command(&[&["run", "smoke.toml", "--device", device, "--jobs", "2"], more].concat());
    if project.path("driver").exists() {
        command.env("ABLATE_CUDA_PATH", project.path("driver"));
    }
    project.finish(&mut command)
}

/// Gives a project an emulated GPU of its own with these settings, which its stages have, too. False on a real GPU.
fn emulate(project: &Project, settings: &str) -> bool {
    let Some(folder) = std::env::var_os("ABLATE_CUDA_PATH") else { return false };
    let own = project.path("driver");
    std::fs::create_dir_all(&own).unwrap();
    for name in ["libcuda.so.1", "libcublas.so.12"] {
        if !own.join(name).exists() {
            symlink(std::path::Path::new(&folder).join(name), own.join(name)).unwrap();
        }
    }
    project.write("driver/settings", settings);
    true
}

/// The scores of all items: what a report reads.
fn scores(project: &Project) -> Vec<(String, Vec<u8>)> {
    project.outputs("smoke").into_iter().filter(|(name, _)| name.ends_with("scores.jsonl")).collect()
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_runs_the_experiment_as_the_cpu_does() {
    let [cpu, gpu] = ["cpu", "cuda:0"].map(|device| {
        let project = Project::smoke();
        run(&project, device, &["--set", "seeds.values=[0]"]).exited(0);
        project.assert_store_is_valid();
        scores(&project)
    });
    assert!(cpu.len() > 10);
    let names = |scores: &[(String, Vec<u8>)]| scores.iter().map(|(name, _)| name.clone()).collect::<Vec<String>>();
    assert_eq!(names(&cpu), names(&gpu));
    let differing: Vec<&String> =
        cpu.iter().zip(&gpu).filter(|(one, other)| one.1 != other.1).map(|((name, _), _)| name).collect();
    assert!(differing.is_empty(), "{} of {} files differ: {differing:?}", differing.len(), cpu.len());
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_stages_run_on_two_devices() {
    let project = Project::smoke();
    if !emulate(&project, "EMULATED_GPU_COUNT=2\nEMULATED_GPU_THREADS=1\n") {
        return;
    }
    run(&project, "cuda:0,cuda:1", &["base"]).exited(0);
    let device = |seed: u32| {
        let shown = project.ok(&["show", "smoke.toml", &format!("base@seed={seed}")]).stdout;
        shown.lines().find(|line| line.contains("device = ")).unwrap_or_default().trim().to_string()
    };
    let devices: BTreeSet<String> = [device(0), device(1)].into();
    assert_eq!(devices.into_iter().collect::<Vec<_>>(), ["device = \"cuda:0\"", "device = \"cuda:1\""]);
}

/// A model of 0.8 million parameters, whose training needs about 13 MiB besides activations, in batches of 100 rows.
const LARGER: [&str; 11] = [
    "base",
    "--set",
    "seeds.values=[0]",
    "--set",
    "stage.base.steps=2",
    "--set",
    "stage.base.batch=100",
    "--set",
    "stage.fresh.model.decoder.dim=256",
    "--set",
    "stage.fresh.model.decoder.ff=512",
];

#[test]
#[ignore = "needs a GPU"]
fn gpu_without_memory_names_a_size_that_fits() {
    let project = Project::smoke();
    if !emulate(&project, "EMULATED_GPU_MEMORY=2\n") {
        return;
    }
    run(&project, "cuda:0", &LARGER)
        .exited(1)
        .stderr_has(&["base@seed=0", "the model does not fit into the memory of the GPU"]);
    project.assert_store_is_valid();
    // Enough for a part of the batch. Without a size of the user's, the run finds one.
    emulate(&project, "EMULATED_GPU_MEMORY=40\n");
    run(&project, "cuda:0", &LARGER).exited(1).stderr_has(&["fits into memory: set `micro_batch = "]);
    let auto = ["--set", "stage.base.micro_batch=\"auto\""];
    run(&project, "cuda:0", &[&LARGER[..], &auto].concat()).exited(0);
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_without_memory_pools_works() {
    let project = Project::smoke();
    if emulate(&project, "EMULATED_GPU_POOLS=0\n") {
        run(&project, "cuda:0", &["base", "--set", "seeds.values=[0]"]).exited(0);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_precision_is_identity() {
    let project = Project::smoke();
    let short = ["base", "--set", "seeds.values=[0]", "--set", "stage.base.steps=2"];
    let rounded = [&short[..], &["--set", "stage.base.precision=\"bf16\""]].concat();
    run(&project, "cuda:0", &short).exited(0);
    let again = run(&project, "cuda:0", &rounded).exited(0);
    assert!(
        format!("{}{}", again.stdout, again.stderr).contains("1 ran, 7 fresh"),
        "{} {}",
        again.stdout,
        again.stderr
    );
    if emulate(&project, "EMULATED_GPU_CAPABILITY=7.5\n") {
        let other = [&rounded[..], &["--set", "stage.base.steps=3"]].concat();
        let refused = run(&project, "cuda:0", &other).exited(1);
        refused.stderr_has(&["precision `bf16`", "compute capability 7.5 is too old"]);
    }
}

#[test]
fn another_precision_than_f32_needs_a_gpu() {
    let project = Project::smoke();
    let outcome = run(&project, "cpu", &["fresh", "base", "--set", "stage.base.precision=\"bf16\""]);
    outcome.exited(2).stderr_has(&["precision `bf16` needs a GPU: the CPU computes in `f32`"]);
}
