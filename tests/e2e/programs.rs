//! Command stages: what a program finds around it, what it may leave, and how often and how long it may try.

use expect_test::expect;

use crate::space::{Space, without_record};

/// A space with one stage of these lines, named `it`.
fn stage(lines: &str) -> Space {
    let space = Space::new();
    space.study(&format!("name = \"study\"\n[stage.it]\nkind = \"command\"\n{lines}\n"));
    space
}

/// Runs a study that must fail, and gives what it says about that, with an exit code.
fn failure(space: &Space) -> String {
    let outcome = space.ablate(&["run", "study.toml"]);
    let is_told = |line: &&str| ["error", "  because", "  help"].iter().any(|word| line.starts_with(word));
    let told: Vec<&str> = outcome.stderr.lines().filter(is_told).filter(|line| !line.contains("is mended")).collect();
    format!("{}, exit code {}", told.join("\n"), outcome.code.unwrap())
}

#[test]
fn a_program_finds_its_inputs_by_name_and_nothing_else() {
    let space = Space::new();
    space.write("data/a.txt", "a\n").write("data/more/b.txt", "b\n").write("data/more/deep/c.txt", "c\n");
    space.study(
        r#"name = "study"
[stage.first]
kind    = "command"
run     = 'echo first > x.txt; echo second > y.txt'
outputs = ["x.txt", "y.txt"]
[stage.it]
kind    = "command"
inputs  = { "in/a" = "data/a.txt", "folder" = "./data/more", "y" = "first:y.txt" }
run     = ': > out.txt; find -L . -type f | sort >> out.txt; cat in/a folder/deep/c.txt y >> out.txt'
outputs = ["out.txt"]
"#,
    );
    space.ok(&["run", "study.toml"]);
    expect![[r#"
        ./folder/b.txt
        ./folder/deep/c.txt
        ./in/a
        ./out.txt
        ./y
        a
        c
        second
    "#]]
    .assert_eq(&space.read("out/study/it/out.txt"));
}

#[test]
fn only_the_promised_environment_enters() {
    let space = stage(
        "run = '/usr/bin/env | sort > out.txt; pwd >> out.txt'\noutputs = [\"out.txt\"]\nenv = [\"KEPT\", \"OWN=x y=z\", \"NONE\"]",
    );
    let mut command = space.command(&["run", "study.toml", "--quiet"]);
    command.env("KEPT", "as outside").env("SECRET", "x").env("LC_ALL", "de_DE").env_remove("NONE");
    assert!(command.status().unwrap().success());
    let text = space.read("out/study/it/out.txt");
    let room = text.lines().last().unwrap();
    assert!(room.contains("/cache/work/"));
    let seed = text.lines().find_map(|line| line.strip_prefix("ABLATE_SEED=")).unwrap();
    assert!(seed.parse::<u64>().is_ok());
    // The shell adds PWD and such on its own.
    let lines = text
        .lines()
        .filter(|line| line.contains('='))
        .filter(|line| !line.starts_with("PWD=") && !line.starts_with('_'));
    let told: Vec<&str> = lines.filter(|line| !line.starts_with("SHLVL=") && !line.starts_with("OLDPWD=")).collect();
    expect![[r#"
        ABLATE_SEED=[SEED]
        CUDA_VISIBLE_DEVICES=
        HOME=[ROOM]
        KEPT=as outside
        LANG=C.UTF-8
        OWN=x y=z
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        TMPDIR=[ROOM]"#]]
    .assert_eq(&told.join("\n").replace(room, "[ROOM]").replace(&format!("SEED={seed}"), "SEED=[SEED]"));
}

#[test]
fn a_declared_variable_that_changes_reruns_the_stage_and_why_says_so() {
    let space = stage("run = '$RAN it; echo $MODE > out.txt'\noutputs = [\"out.txt\"]\nenv = [\"MODE\"]");
    let run = |mode: &str| {
        let output = space.command(&["run", "study.toml"]).env("MODE", mode).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (space.told(), space.read("out/study/it/out.txt"))
    };
    assert_eq!(run("one"), ("it".to_string(), "one\n".to_string()));
    assert_eq!(run("one"), (String::new(), "one\n".to_string()));
    let why = space.command(&["why", "study.toml", "it"]).env("MODE", "two").output().unwrap();
    expect![[r#"
        note: `it` must run: the environment variable `MODE` changed
         --> study.toml:6:7
          |
        6 | env = ["MODE"]
          |       ^^^^^^^^ compared with record [RECORD]
    "#]]
    .assert_eq(&without_record(&String::from_utf8(why.stdout).unwrap()));
    assert_eq!(run("two"), ("it".to_string(), "two\n".to_string()));
    assert_eq!(run("one"), (String::new(), "one\n".to_string()));
}

#[test]
fn a_program_may_be_a_list_and_start_in_a_folder_below() {
    let space = stage(
        "run = [\"sh\", \"-c\", \"echo \\\"$1\\\" > ../out.txt; pwd >> ../out.txt\", \"sh\", \"a  b\"]\ndir = \"deep\"\noutputs = [\"out.txt\"]",
    );
    space.ok(&["run", "study.toml"]);
    let text = space.read("out/study/it/out.txt");
    assert!(text.starts_with("a  b\n/") && text.ends_with("/deep\n"), "{text}");
    let space = stage("run = [\"no-such-program\"]\noutputs = [\"out.txt\"]");
    expect!["error: `it` failed: cannot start `no-such-program`: No such file or directory (os error 2), exit code 1"]
        .assert_eq(&failure(&space));
}

#[test]
fn outputs_with_types_are_checked_and_join_the_graph() {
    let space = Space::new();
    let study = |row: &str| {
        format!(
            r#"name = "study"
[stage.rows]
kind    = "command"
run     = '''echo '{row}' > rows.jsonl; mkdir model; echo 1 > model/weights'''
outputs = {{ "rows.jsonl" = "rows", "model" = "checkpoint" }}
[stage.below]
kind    = "command"
inputs  = {{ "in" = "rows:rows.jsonl", "m" = "rows:model" }}
run     = 'cat in m/weights > out.txt'
outputs = ["out.txt"]
"#
        )
    };
    space.study(&study(r#"{"id":1}"#));
    space.ok(&["run", "study.toml"]);
    assert_eq!(space.read("out/study/below/out.txt"), "{\"id\":1}\n1\n");
    let shown = space.json(&["show", "study.toml", "rows"]);
    assert_eq!(shown["record"]["outputs"]["rows.jsonl"]["kind"], "rows");
    space.study(&study(r#"{"id":"#));
    expect![[r#"
        error: `rows` failed: the output `rows.jsonl` is not valid
          because line 1 is not JSON
          because EOF while parsing a value at line 1 column 6, exit code 1"#]]
    .assert_eq(&failure(&space));
}

#[test]
fn a_program_that_fails_says_why() {
    let space = stage("run = 'echo working; echo no such luck >&2; exit 7'\noutputs = [\"out.txt\"]");
    expect![[r#"
        error: `it` failed: its program ended with exit code 7
          because the end of its log: working, exit code 1"#]]
    .assert_eq(&failure(&space));
    let space = stage("run = 'kill -9 $$'\noutputs = [\"out.txt\"]");
    expect!["error: `it` failed: the child process was killed by signal 9, as the kernel does when memory runs out, exit code 1"].assert_eq(&failure(&space));
    let space = stage("run = 'true'\noutputs = [\"out.txt\"]");
    expect!["error: `it` failed: the stage ended without writing its output `out.txt`, exit code 1"]
        .assert_eq(&failure(&space));
}

#[test]
fn an_output_that_is_a_link_or_lies_elsewhere_is_refused() {
    let space = stage("run = 'ln -s /etc/hostname out.txt'\noutputs = [\"out.txt\"]");
    expect!["error: `it` failed: the output `out.txt` may be outside the stage's folder: `out.txt` is a symbolic link, exit code 1"].assert_eq(&failure(&space));
    let space = stage("run = 'mkdir real; echo x > real/out.txt; ln -s real there'\noutputs = [\"there/out.txt\"]");
    expect!["error: `it` failed: the output `there/out.txt` may be outside the stage's folder: `there` is a symbolic link, exit code 1"].assert_eq(&failure(&space));
    let space = stage("run = 'mkdir tree; ln -s /etc/hostname tree/link'\noutputs = [\"tree\"]");
    assert!(failure(&space).contains("which is not a plain file"));
    let space = stage("run = 'mkfifo out.txt'\noutputs = [\"out.txt\"]");
    assert!(failure(&space).contains("neither a file nor a folder"));
}

#[test]
fn an_input_that_is_edited_in_place_fails_the_stage_and_is_made_again() {
    let space = Space::new();
    let study = |line: &str| {
        format!(
            r#"name = "study"
[stage.first]
kind    = "command"
run     = '$RAN first; echo first > x.txt'
outputs = ["x.txt"]
[stage.it]
kind    = "command"
inputs  = {{ "x.txt" = "first" }}
run     = '$RAN it; {line}'
outputs = ["out.txt"]
"#
        )
    };
    // Root may write what is sealed; others have to insist.
    space.study(&study("chmod u+w x.txt; echo edited >> x.txt; cat x.txt > out.txt"));
    expect![
        "error: `it` failed: its input `inputs.x.txt` changed while the stage ran: inputs are read-only, exit code 1"
    ]
    .assert_eq(&failure(&space));
    space.study(&study("cat x.txt > out.txt"));
    space.told();
    assert_eq!(space.ran(), "first it");
    assert_eq!(space.read("out/study/it/out.txt"), "first\n");
    space.is_sound();
}

#[test]
fn a_program_has_its_time_and_its_tries() {
    let space = stage("run = 'exec sleep 600'\noutputs = [\"out.txt\"]\nlimits = { time = 0.2 }");
    expect!["error: `it` failed: it took longer than its limit of 0.2 s, exit code 1"].assert_eq(&failure(&space));
    let again = "run = '$RAN it; [ $(wc -l < RAN) -ge 3 ] && echo done > out.txt'\noutputs = [\"out.txt\"]\n";
    for (limits, arguments) in [("limits = { retries = 2 }", &[][..]), ("", &["--retries", "2"])] {
        let space = Space::new();
        let lines = again.replace("RAN)", &format!("{})", space.path("ran").display())) + limits;
        space.study(&format!("name = \"study\"\n[stage.it]\nkind = \"command\"\n{lines}\n"));
        let told = space.ok(&[&["run", "study.toml", "-v"], arguments].concat()).stderr;
        assert!(told.contains("attempt 2 of 3 failed: its program ended with exit code 1"), "{told}");
        assert_eq!(space.told(), "it it it");
        assert_eq!(space.read("out/study/it/out.txt"), "done\n");
    }
}

#[test]
fn what_a_program_says_is_kept_in_order() {
    let line =
        "for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf '\\''\\377 no line break'\\''; echo x > out.txt";
    let space = stage(&format!(
        "run = '''{}'''\noutputs = [\"out.txt\"]",
        line.replace("'\\''", "\"").replace("\\377", "\\\\377")
    ));
    space.ok(&["run", "study.toml"]);
    expect![[r#"
        out 1
        err 1
        out 2
        err 2
        out 3
        err 3
        � no line break
    "#]]
    .assert_eq(&space.ok(&["logs", "study.toml", "it"]).stdout);
}

#[test]
fn a_pool_of_one_slot_takes_one_stage_at_a_time() {
    let space = Space::new();
    let busy = space.path("busy").display().to_string();
    let stage = |number: usize| {
        format!(
            "[stage.s{number}]\nkind = \"command\"\nlimits = {{ pool = \"licence\" }}\noutputs = [\"out.txt\"]\n\
             run = 'mkdir {busy} && echo {number} > out.txt && sleep 0.02 && rmdir {busy}'\n"
        )
    };
    let stages: String = (0..8).map(stage).collect();
    space.study(&format!("name = \"study\"\n{stages}[settings.pools]\nlicence = 1\n"));
    // Whoever comes upon the folder of another fails.
    space.ok(&["run", "study.toml", "--jobs", "4"]);
    assert_eq!(space.outputs("study").len(), 8);
}
