//! Many concurrent runs on one store.

use std::fs;
use std::process::Stdio;

use crate::support::{Project, chains_of_stages};

#[test]
fn eight_overlapping_runs_share_all_work() {
    let project = Project::new();
    let names: Vec<String> = (0..8).map(|number| format!("study-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        // Most chains of a study are shared with others.
        project.write_study(&chains_of_stages(name, number..number + 4));
        fs::rename(project.path("study.toml"), project.path(&format!("{name}.toml"))).unwrap();
    }
    let start = |name: &String| {
        let file = format!("{name}.toml");
        project.command(&["run", &file, "--jobs", "2"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<_> = names.iter().map(start).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let tally = project.run_counts();
    assert_eq!(tally.len(), 1 + 10 * 11);
    let twice: Vec<_> = tally.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for (number, name) in names.iter().enumerate() {
        let outputs = project.outputs(name);
        assert_eq!(outputs.len(), 41);
        for chain in number..number + 4 {
            let links = (0..10).rev().map(|link| format!("stage-{chain}-{link}\n"));
            let expected = links.collect::<String>() + "root\n";
            let last = &outputs[&format!("stage-{chain}-9/out.txt")];
            assert_eq!(String::from_utf8_lossy(last), expected);
        }
    }
    project.assert_store_is_valid();
}
