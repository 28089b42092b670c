//! Models on a GPU, real or emulated (`tests/emulated-gpu/run.sh`), against the same experiment on the CPU.

use std::collections::BTreeSet;

use crate::support::{Outcome, Project};

/// The smoke experiment with short training, one seed, and a device.
fn run(project: &Project, device: &str, more: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let few = ["stage.base.steps=6", "stage.sft.steps=20", "stage.rollouts.max_tokens=12", "stage.eval.max_tokens=12"];
    let mut arguments = vec!["run", "smoke.toml", "--device", device, "--jobs", "2"];
    for setting in few.iter().chain(more) {
        arguments.extend(["--set", setting]);
    }
    project.finish(project.command(&arguments).envs(environment.iter().copied()))
}

/// The names and scores of all items: what a report reads.
fn scores(project: &Project) -> Vec<(String, Vec<u8>)> {
    project.outputs("smoke").into_iter().filter(|(name, _)| name.ends_with("scores.jsonl")).collect()
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_runs_the_experiment_as_the_cpu_does() {
    let [cpu, gpu] = ["cpu", "cuda:0"].map(|device| {
        let project = Project::smoke();
        run(&project, device, &[], &[]).exited(0);
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
#[ignore = "needs an emulated GPU"]
fn gpu_stages_run_on_two_devices() {
    let project = Project::smoke();
    let two = [("EMULATED_GPU_COUNT", "2"), ("EMULATED_GPU_THREADS", "1")];
    run(&project, "cuda:0,cuda:1", &[], &two).exited(0);
    let show = |seed: u32| project.json(&["show", &format!("sft@seed={seed}"), "smoke.toml"]);
    let devices: BTreeSet<String> =
        [0, 1].map(|seed| show(seed)["summary"]["device"].as_str().unwrap_or_default().to_string()).into();
    assert!(devices.iter().all(|device| device.starts_with("cuda:")), "{devices:?}");
}

#[test]
#[ignore = "needs an emulated GPU"]
fn gpu_without_memory_is_an_error_and_resumes() {
    let project = Project::smoke();
    let outcome = run(&project, "cuda:0", &[], &[("EMULATED_GPU_MEMORY", "1")]);
    outcome.exited(1).stderr_has(&["too little"]);
    project.assert_store_is_valid();
    run(&project, "cuda:0", &[], &[("EMULATED_GPU_POOLS", "0")]).exited(0);
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_precision_is_identity() {
    let project = Project::smoke();
    run(&project, "cuda:0", &[], &[]).exited(0);
    let outcome = run(&project, "cuda:0", &["stage.sft.precision=\"bf16\"", "stage.eval.precision=\"bf16\""], &[]);
    let printed = outcome.exited(0).stdout;
    assert!(printed.contains("sft") && !printed.contains("base@"), "{printed}");
    let old = [("EMULATED_GPU_CAPABILITY", "7.5")];
    let outcome = run(&project, "cuda:0", &["stage.sft.precision=\"bf16\"", "stage.sft.steps=21"], &old);
    if std::env::var_os("ABLATE_CUDA_PATH").is_some() {
        outcome.exited(1).stderr_has(&["precision `bf16`", "compute capability 7.5 is too old"]);
    }
}

#[test]
fn another_precision_than_f32_needs_a_gpu() {
    let project = Project::smoke();
    let outcome = run(&project, "cpu", &["stage.base.precision=\"bf16\""], &[]);
    outcome.exited(2).stderr_has(&["precision `bf16` needs a GPU: the CPU computes in `f32`"]);
}
