//! What runs again after an edit, on a user's own files, and how `why` tells it.

use expect_test::expect;

use crate::pipeline::ran;
use crate::space::{Space, without_record};

/// Six questions about three pictures, in LLaVA's layout, and a small study of them.
pub(crate) fn study() -> Space {
    let space = Space::new();
    for (name, shade) in [("dark", 40), ("grey", 120), ("bright", 220)] {
        let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([shade, shade, shade]));
        let path = space.path(&format!("data/images/{name}.png"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture.save(path).unwrap();
    }
    space.write("data/train.jsonl", rows("dark"));
    space.write(
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
    space
}

/// The rows, with the answer of the first.
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

/// Names of the stages that ran, sorted: which of two that could begin goes first is nobody's business.
fn run(space: &Space) -> Vec<String> {
    let mut names = ran(&space.ok(&["run", "study.toml", "--jobs", "1", "--json"]).stdout);
    names.sort();
    names
}

#[test]
fn an_edit_reruns_what_lies_below_it_and_nothing_else() {
    let space = study();
    assert_eq!(run(&space), ["eval", "fresh", "items", "mix", "sft", "tokenizer"]);
    assert_eq!(run(&space), Vec::<String>::new());

    // Equal bytes, written again: nothing.
    space.write("data/train.jsonl", rows("dark"));
    assert_eq!(run(&space), Vec::<String>::new());

    // One answer: everything that reads it. The same letters in another order leave the tokenizer's merges alone or
    // not; either way what lies below the items runs.
    space.write("data/train.jsonl", rows("gloomy"));
    let why = space.ok(&["why", "study.toml", "items"]).stdout;
    assert!(why.contains("the content of `[ROOT]/data/train.jsonl` (`path`) changed"), "{why}");
    assert!(why.contains("study.toml:5:"), "{why}");
    assert_eq!(run(&space), ["eval", "fresh", "items", "mix", "sft", "tokenizer"]);

    // And back: every result is still there.
    space.write("data/train.jsonl", rows("dark"));
    assert_eq!(run(&space), Vec::<String>::new());
}

#[test]
fn an_upstream_that_gives_equal_bytes_leaves_what_is_below_fresh() {
    let space = study();
    run(&space);
    let forced = space.ok(&["run", "study.toml", "--force", "mix", "--json"]);
    assert_eq!(ran(&forced.stdout), ["mix"]);
}

#[test]
fn a_renamed_stage_costs_nothing() {
    let space = study();
    run(&space);
    let text = space
        .read("study.toml")
        .replace("stage.mix]", "stage.blend]")
        .replace("data   = \"mix\"", "data   = \"blend\"");
    space.write("study.toml", text);
    assert_eq!(run(&space), Vec::<String>::new());
}

#[test]
fn why_points_at_the_line_with_old_and_new_value() {
    let space = study();
    run(&space);
    let text = space.read("study.toml").replace("lr     = 1e-3", "lr     = 2e-3");
    space.write("study.toml", text);
    let why = |stage: &str| without_record(&space.ok(&["why", "study.toml", stage]).stdout);
    let sft = why("sft");
    expect![[r#"
        note: `sft` must run: `lr` changed from 0.001 to 0.002
          --> study.toml:34:10
           |
        34 | lr     = 2e-3
           |          ^^^^ was 0.001 in record [RECORD]
    "#]]
    .assert_eq(&sft);
    // What it waits for is told along with it.
    assert_eq!(why("eval"), format!("note: `eval` waits for `sft`\n\n{sft}"));
}
