//! Which stages run again after an edit of a user's files, and how `why` explains it.

use expect_test::expect;
use serde_json::json;

use crate::support::{Project, assert_contains, without_record};

/// Six questions about three images in LLaVA's layout, and a small study with them.
pub(crate) fn study() -> Project {
    let project = Project::new();
    std::fs::create_dir_all(project.path("data/images")).unwrap();
    for (name, shade) in [("dark", 40), ("grey", 120), ("bright", 220)] {
        let image = image::RgbImage::from_pixel(16, 16, image::Rgb([shade; 3]));
        image.save(project.path(&format!("data/images/{name}.png"))).unwrap();
    }
    project.write("data/train.jsonl", rows("dark"));
    project.write(
        "study.toml",
        r#"name = "study"

[stage.items]
kind   = "items"
path   = "data/train.jsonl"
images = "data/images"

[stage.tokenizer]
kind      = "tokenizer"
train_on  = ["items"]
algorithm = "bpe"
vocab     = 300

[stage.fresh]
kind      = "base"
tokenizer = "tokenizer"
[stage.fresh.model]
image_size = 16
patch_size = 8
vision     = { dim = 16, layers = 1, heads = 2, ff = 16 }
projector  = { hidden = 16 }
decoder    = { dim = 16, layers = 1, heads = 2, kv_heads = 1, ff = 16 }

[stage.mix]
kind = "mix"
sources.direct = { from = "items", as = "direct" }

[stage.sft]
kind   = "sft"
model  = "fresh"
data   = "mix"
epochs = 2
batch  = 4
lr     = 1e-3

[stage.eval]
kind       = "eval"
model      = "sft"
benchmark  = "items"
prompt     = "direct"
max_tokens = 4
"#,
    );
    project
}

/// The rows; `first` is the answer of the first.
fn rows(first: &str) -> String {
    let row = |(index, answer): (usize, &str)| {
        let image = ["dark", "grey", "bright"][index % 3];
        let question = ["How bright is the picture?", "Is it dark?"][index / 3];
        let turns =
            json!([{ "from": "human", "value": format!("<image>\n{question}") }, { "from": "gpt", "value": answer }]);
        let id = format!("row-{}", index + 1);
        format!("{}\n", json!({ "id": id, "image": format!("{image}.png"), "conversations": turns }))
    };
    [first, "grey", "bright", "yes", "no", "no"].into_iter().enumerate().map(row).collect()
}

fn run(project: &Project) -> Vec<String> {
    project.ran_instances(&["study.toml", "--jobs", "1"])
}

#[test]
fn edit_reruns_only_downstream_stages() {
    let project = study();
    assert_eq!(run(&project), ["eval", "fresh", "items", "mix", "sft", "tokenizer"]);
    assert_eq!(run(&project), Vec::<String>::new());

    // The same bytes, written again: nothing runs.
    project.write("data/train.jsonl", rows("dark"));
    assert_eq!(run(&project), Vec::<String>::new());

    // Another answer: everything downstream of the items runs.
    project.write("data/train.jsonl", rows("gloomy"));
    let why = project.ok(&["why", "study.toml", "items"]).stdout;
    assert_contains(&why, &["the content of `[ROOT]/data/train.jsonl` (`path`) changed", "study.toml:5:"]);
    assert_eq!(run(&project), ["eval", "fresh", "items", "mix", "sft", "tokenizer"]);

    // The old content again: all results are still stored.
    project.write("data/train.jsonl", rows("dark"));
    assert_eq!(run(&project), Vec::<String>::new());
}

#[test]
fn equal_output_keeps_downstream_fresh() {
    let project = study();
    run(&project);
    assert_eq!(project.ran_instances(&["study.toml", "--force", "mix"]), ["mix"]);
}

#[test]
fn renamed_stage_stays_fresh() {
    let project = study();
    run(&project);
    project.edit("study.toml", "stage.mix]", "stage.blend]").edit("study.toml", "data   = \"mix\"", "data = \"blend\"");
    assert_eq!(run(&project), Vec::<String>::new());
}

#[test]
fn why_shows_line_with_old_and_new_value() {
    let project = study();
    run(&project);
    project.edit("study.toml", "lr     = 1e-3", "lr     = 2e-3");
    let why = |stage: &str| without_record(&project.ok(&["why", "study.toml", stage]).stdout);
    let sft = why("sft");
    expect![[r#"
        note: `sft` must run: `lr` changed from 0.001 to 0.002
          --> study.toml:34:10
           |
        34 | lr     = 2e-3
           |          ^^^^ was 0.001 in record [RECORD]
    "#]]
    .assert_eq(&sft);
    // The stage that it waits for is explained too.
    assert_eq!(why("eval"), format!("note: `eval` waits for `sft`\n\n{sft}"));
}
