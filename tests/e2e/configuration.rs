//! Configuration files: where stages run is no part of an experiment.

use crate::support::Project;

fn project() -> Project {
    Project::with_study(
        "name = \"study\"\n[stage.say]\nkind = \"command\"\nrun = \"echo a > out\"\noutputs = [\"out\"]\n",
    )
}

#[test]
fn configuration_chooses_the_executor_and_reruns_nothing() {
    let project = project();
    project.ablate(&["run", "study.toml"]).exited(0);
    project.write(".ablate.toml", "[executor]\ndefault = \"slurm\"\n");
    let plan = project.ablate(&["plan", "study.toml"]).exited(0);
    assert!(plan.stdout.contains("0 must run, 0 may run, 1 fresh"), "{}", plan.stdout);
    // Without Slurm, the stages do not run on this machine instead.
    let mut without_slurm = project.command(&["run", "study.toml"]);
    let error = project.finish(without_slurm.env("PATH", "/nowhere")).exited(2);
    error.stderr_has(&["Slurm is not installed on this machine", "cannot start `sinfo`"]);
    project.ablate(&["run", "study.toml", "--executor", "local"]).exited(0);
}

#[test]
fn project_overrides_user() {
    let project = project();
    project.write("config/ablate/config.toml", "[executor]\ndefault = \"slurm\"\n");
    let mut without_slurm = project.command(&["run", "study.toml"]);
    project.finish(without_slurm.env("PATH", "/nowhere")).exited(2);
    project.write(".ablate.toml", "[executor]\ndefault = \"local\"\n");
    project.ablate(&["run", "study.toml"]).exited(0);
}

#[test]
fn wrong_configuration_is_an_error_at_its_place() {
    let project = project();
    project.write(".ablate.toml", "[executor.slurm]\npartitoin = \"gpu\"\n");
    let error = project.ablate(&["run", "study.toml"]).exited(2);
    error.stderr_has(&[".ablate.toml:2:1", "unknown key `partitoin`", "a key of a similar name exists: `partition`"]);
    project.write(".ablate.toml", "[executor.slurm.kind.stf]\ngpu = 1\n");
    let error = project.ablate(&["run", "study.toml"]).exited(2);
    error.stderr_has(&[".ablate.toml:1:22", "there is no kind `stf`", "a kind of a similar name exists: `sft`"]);
    project.write(".ablate.toml", "[executor.slurm]\ncpus = 0\n");
    project.ablate(&["run", "study.toml"]).exited(2).stderr_has(&[".ablate.toml:2:8", "at least 1 is needed"]);
    project.write("other.toml", "");
    project.ablate(&["run", "study.toml", "--config", "other.toml"]).exited(0);
    project.ablate(&["run", "study.toml", "--config", "none.toml"]).exited(2).stderr_has(&["cannot read `none.toml`"]);
}

#[test]
fn options_of_this_machine_are_refused_for_a_cluster() {
    let project = project();
    for option in [["--device", "cpu"], ["--gpus", "0"], ["--threads", "2"]] {
        let error = project.ablate(&["run", "study.toml", "--executor", "slurm", option[0], option[1]]).exited(2);
        error.stderr_has(&[&format!("`{}` is for stages of this machine", option[0]), "docs/cluster.md"]);
    }
}

#[test]
fn a_job_on_a_node_that_does_not_see_the_store_says_so() {
    let project = project();
    let job = project.ablate(&["cluster-job", "no-such-folder", "0"]).exited(1);
    job.stderr_has(&["error: cannot read `no-such-folder/0.json`"]);
}
