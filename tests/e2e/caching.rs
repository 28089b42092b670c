//! Which stages run again after an edit of a user's files, and how `why` explains it.

use expect_test::expect;

use crate::default_experiment::ran;
use crate::support::{Project, without_record};

/// Six questions about three images in LLaVA's layout, and a small study with them.
pub(crate) fn study() -> Project {
    let project = Project::new();
    for (name, shade) in [("dark", 40), ("grey", 120), ("bright", 220)] {
        let image = image::RgbImage::from_pixel(16, 16, image::Rgb([shade, shade, shade]));
        let path = project.path(&format!("data/images/{name}.png"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
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
    let row = |id: usize, image: &str, question: &str, answer: &str| {
        let turns = serde_json::json!([
            { "from": "human", "value": format!("<image>\n{question}") },
            { "from": "gpt", "value": answer },
        ]);
        serde_json::json!({ "id": format!("row-{id}"), "image": format!("{image}.png"), "conversations": turns })
            .to_string()
    };
    let asked = "How bright is the picture?";
    let other = "Is it dark?";
    let rows = [
        row(1, "dark", asked, first),
        row(2, "grey", asked, "grey"),
        row(3, "bright", asked, "bright"),
        row(4, "dark", other, "yes"),
        row(5, "grey", other, "no"),
        row(6, "bright", other, "no"),
    ];
    rows.join("\n") + "\n"
}

/// The names of the stages that ran, sorted, because the order of independent stages may vary.
fn run(project: &Project) -> Vec<String> {
    let mut names = ran(&project.ok(&["run", "study.toml", "--jobs", "1", "--json"]).stdout);
    names.sort();
    names
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
    assert!(why.contains("the content of `[ROOT]/data/train.jsonl` (`path`) changed"), "{why}");
    assert!(why.contains("study.toml:5:"), "{why}");
    assert_eq!(run(&project), ["eval", "fresh", "items", "mix", "sft", "tokenizer"]);

    // The old content again: all results are still stored.
    project.write("data/train.jsonl", rows("dark"));
    assert_eq!(run(&project), Vec::<String>::new());
}

#[test]
fn equal_output_keeps_downstream_fresh() {
    let project = study();
    run(&project);
    let forced = project.ok(&["run", "study.toml", "--force", "mix", "--json"]);
    assert_eq!(ran(&forced.stdout), ["mix"]);
}

#[test]
fn renamed_stage_stays_fresh() {
    let project = study();
    run(&project);
    let text = project
        .read("study.toml")
        .replace("stage.mix]", "stage.blend]")
        .replace("data   = \"mix\"", "data   = \"blend\"");
    project.write("study.toml", text);
    assert_eq!(run(&project), Vec::<String>::new());
}

#[test]
fn why_shows_line_with_old_and_new_value() {
    let project = study();
    run(&project);
    let text = project.read("study.toml").replace("lr     = 1e-3", "lr     = 2e-3");
    project.write("study.toml", text);
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
