//! Fuzzing of experiment files with the built-in kinds: a text loads or is refused with renderable messages, and an
//! experiment that loads can be planned, drawn, compiled and read back.

use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::stages::KINDS;
use ablate_core::base::{Hash, files};
use ablate_engine::query::Query;
use ablate_engine::{self, Graph, GraphFormat, PlanOptions};
use ablate_experiment::{Expansion, Experiment, Upstream, compiled};
use ablate_fuzz::{Edit, apply_edits, edits, fuzz};
use ablate_store::Store;

/// Short pieces of TOML.
const SHORT_PIECES: &[&str] = &[
    "\"", "[", "]", "{", "}", "=", ".", ",", "\n", "${", "$${", "@", ":", "é", "\u{feff}", "'''", "\"\"\"", "#", "-",
    "[[", "]]", "\\u", "\\", "\t", "\r", "=[", "={", " 1e999", " 0x", " nan", " -1", " 0", " 1e19", " true", " []",
    " {}", " \"\"", " \"..\"", " inf",
];

/// Values, and references to stages.
const VALUES: &[&str] = &[
    " 18446744073709551616",
    " 9223372036854775807",
    " \"remove\"",
    " \"${x}\"",
    " \"base\"",
    " \"seed\"",
    " [\"a\", \"b\"]",
    " [1, 2, 3]",
    " 1979-05-27",
    " \"command\"",
    " \"eval@model=sft\"",
    " \"sft@mix=both:model\"",
    " { n = 1 }",
    " { values = [1, 2] }",
    " \"10000000000d\"",
    " 4294967295",
    " \"\\u0000\"",
];

static PIECES: LazyLock<Vec<&str>> = LazyLock::new(|| [SHORT_PIECES, VALUES].concat());

/// Features that the shipped experiments do not use: programs, limits, pools, variables, all forms of axes, seeds.
const COMMANDS: &str = r#"
name = "commands"

[vars]
x = 3
word = "a-${x}"

[settings]
device = "cpu"
jobs = 2
pools = { disk = 2, gpu = 1 }

[seeds]
from = ["words"]
values = [1, 2]

[stage.words]
kind = "command"
run = "cat data > words.txt"
inputs = { data = "data.txt" }
outputs = ["words.txt", "more/deep.txt"]
env = ["HOME", "MODE=${word}"]

[stage.count]
kind = "command"
run = ["/bin/sh", "-c", "wc words > out.jsonl"]
inputs = { words = "words:words.txt", more = "words:more/deep.txt", here = "./data.txt" }
outputs = { "out.jsonl" = "rows", "facts.json" = "facts" }
dir = "sub"
[stage.count.limits]
time = "1h 30m"
retries = 2
pool = "disk"

[stage.join]
kind = "command"
run = "cat a b"
inputs = { a = "count@size=1", b = "count@size=2:facts.json" }
outputs = ["joined"]
limits = { time = 90, gpu = 2 }

[axis.size]
variants.1 = { "stage.count.run" = "wc -l words > out.jsonl" }
variants.2 = { "stage.count.limits.time" = "2m", "stage.count.dir" = "remove" }

[axis.level]
key = "stage.words.env"
values = [["A=1"], ["A=2"]]
labels = ["one", "two"]
"#;

/// Every form of an axis, excluded points, and a stage that exists only at some points.
const AXES: &str = r#"
name = "axes"
targets = ["sft", "half"]

[stage.items]
kind = "items"
synthetic = { datasets = ["count"], split = "train", count = 4 }
[stage.mix]
kind = "mix"
rows = 4
[stage.mix.sources]
cot = { from = "items", as = "cot", weight = 1.0 }
direct = { from = "items", as = "direct", weight = 1.0 }
plain = { from = "items", rows = 1 }
[stage.words]
kind = "tokenizer"
train_on = ["items"]
[stage.fresh]
kind = "base"
tokenizer = "words"
[stage.sft]
kind = "sft"
model = "fresh"
data = "mix"
[stage.half]
kind = "sft"
model = "sft"
data = "mix"
when = ["ratio=1-0", "with=plain"]

[axis.ratio]
simplex = ["stage.mix.sources.cot.weight", "stage.mix.sources.direct.weight"]
step = 0.5
[axis.search]
points = 3
seed = 1
random = [
  { key = "stage.sft.lr", log_uniform = [1e-6, 1e-3] },
  { key = "stage.sft.batch", uniform = [1, 8] },
  { key = "stage.sft.clip", uniform = [0.5, 1.5] },
  { key = "stage.sft.schedule", choice = ["cosine", "linear"] },
]
[axis.with]
add_one = "stage.mix.sources"
of = ["plain"]
[axis.without]
leave_one_out = "stage.mix.sources"
of = ["cot"]
[axis.sets]
subsets = "stage.mix.sources"
sets = { all = ["direct"], none = [] }
[points]
zip = [["ratio", "search"]]
exclude = ["with=none,ratio=0-1", "without=no-cot,sets=none", "ratio=1-0,without=no-cot", "ratio=0-1,sets=none"]
"#;

/// Paths of overrides, besides the empty one.
const OVERRIDES: &str = "\
    axis.ratio.step axis.search.points points.exclude targets stage.half.when stage.count.limits.retries \
    stage.sft.lr stage.mix.sources vars.x seeds axis.size settings.jobs settings.pools.disk stage.words.inputs.data \
    extends stage stage.eval.prompt axis.mix.variants.both . a.b.c stage.words.env.0 name";

/// A text derived from the shipped experiments.
#[derive(Clone, Debug)]
enum Text {
    Any(Vec<u8>),
    Edited(Index, Vec<Edit>),
    /// Lines of the experiments in any order.
    Mixed(Vec<Index>),
}

#[derive(Clone, Debug)]
struct Case {
    text: Text,
    overrides: Vec<String>,
}

fn cases() -> impl Strategy<Value = Case> {
    let text = prop_oneof![
        1 => vec(any::<u8>(), 0..200).prop_map(Text::Any),
        1 => ".{0,80}".prop_map(|text| Text::Any(text.into_bytes())),
        8 => (any::<Index>(), edits(&PIECES)).prop_map(|(which, edits)| Text::Edited(which, edits)),
        2 => vec(any::<Index>(), 1..40).prop_map(Text::Mixed),
    ];
    let value = prop_oneof![prop::sample::select(PIECES.clone()).prop_map(str::to_string), any::<String>()];
    let paths: Vec<&str> = OVERRIDES.split_whitespace().chain([""]).collect();
    let change = prop_oneof![
        3 => (prop::sample::select(paths), value).prop_map(|(path, value)| format!("{path}={value}")),
        1 => any::<String>(),
    ];
    let overrides = prop_oneof![2 => Just(Vec::new()), 1 => vec(change, 1..3)];
    (text, overrides).prop_map(|(text, overrides)| Case { text, overrides })
}

/// A folder with the experiments, and their texts.
fn folder() -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let mut texts = vec![COMMANDS.to_string(), AXES.to_string()];
    for (name, path, _) in files::entries(&shipped).unwrap() {
        if path.extension().is_some_and(|ending| ending == "toml") {
            let text = files::read_text(&path).unwrap();
            files::write_unsynced(&folder.path().join(name), text.as_bytes()).unwrap();
            texts.push(text);
        }
    }
    files::write_unsynced(&folder.path().join("data.txt"), b"one\ntwo\n").unwrap();
    (folder, texts)
}

fn bytes_of(text: &Text, texts: &[String]) -> Vec<u8> {
    match text {
        Text::Any(bytes) => bytes.clone(),
        Text::Edited(which, edits) => apply_edits(which.get(texts).as_bytes(), edits),
        Text::Mixed(places) => {
            let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
            places.iter().flat_map(|place| [place.get(&lines), "\n"]).collect::<String>().into_bytes()
        }
    }
}

/// Everything of the instances except source locations.
fn description(expansion: &Expansion) -> String {
    let mut description = String::new();
    for one in &expansion.instances {
        let kind = (one.kind.name, one.seed, &one.point, &one.inputs, &one.outputs, &one.limits);
        writeln!(description, "{} {} {} {} {kind:?}", one.name, one.stage, &*one.config, &*one.identity).unwrap();
    }
    write!(description, "{:?}", expansion.aliases).unwrap();
    description
}

fn hash_of(path: &Path) -> Option<Hash> {
    Hash::of_file(path).ok()
}

#[test]
fn any_text_loads_or_is_refused() {
    let (folder, texts) = folder();
    let path = folder.path().join("a.toml");
    let store = Store::open(&folder.path().join("cache")).unwrap();
    let loaded = std::cell::Cell::new(0);
    fuzz("experiments", &cases(), |Case { text, overrides }| {
        files::write_unsynced(&path, &bytes_of(&text, &texts)).unwrap();
        let (experiment, expansion) = match Experiment::load(&path, &overrides, KINDS) {
            Ok(loaded) => loaded,
            Err(failure) => {
                assert!(!failure.render(false).is_empty() && !failure.render(true).is_empty());
                return;
            }
        };
        loaded.set(loaded.get() + 1);
        let bytes = compiled::compile(&experiment, &expansion, KINDS).unwrap();
        let lean = compiled::read(bytes, KINDS, &hash_of).unwrap();
        assert_eq!(description(&lean.expansion), description(&expansion));
        assert_eq!(lean.experiment.settings, experiment.settings);
        let graph = Graph::new(&expansion);
        for format in [GraphFormat::Dot, GraphFormat::Mermaid, GraphFormat::Json] {
            assert!(!graph.render(&expansion, format, true).is_empty());
        }
        // A mutated path may point anywhere on this machine. Only files in the test's folder are read.
        let inside = |upstream: &Upstream| match upstream {
            Upstream::External { path } => {
                path.canonicalize().is_ok_and(|path| path.starts_with(folder.path()) && path.is_file())
            }
            Upstream::Output { .. } | Upstream::Environment { .. } => true,
        };
        if expansion.instances.iter().flat_map(|one| &one.inputs).all(|input| inside(&input.upstream)) {
            let plans = [&expansion, &lean.expansion].map(|expansion| {
                let plan = ablate_engine::plan(expansion, &store, &PlanOptions::default()).unwrap();
                let id = experiment.name.as_str().into();
                Query { experiment: &id, expansion, store: &store, plan: &plan }.list();
                plan
            });
            for id in expansion.ids() {
                assert_eq!(plans[0].get(id).state, plans[1].get(id).state);
                for note in ablate_engine::why(&expansion, &plans[0], id) {
                    assert!(!note.render(&experiment.sources, false).is_empty());
                }
            }
        }
    });
    assert!(loaded.get() > 0, "no text loads");
}

#[test]
fn any_bytes_can_be_read_as_compiled() {
    let (folder, texts) = folder();
    let path = folder.path().join("a.toml");
    files::write_unsynced(&path, texts[0].as_bytes()).unwrap();
    let (experiment, expansion) = Experiment::load(&path, &[], KINDS).unwrap();
    let sound = compiled::compile(&experiment, &expansion, KINDS).unwrap();
    let lies: &[&str] = &["\0", "\u{1}", "\u{7f}", "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}", "ü"];
    let number = any::<u64>().prop_map(|number| number.to_le_bytes().to_vec());
    let lengths = prop_oneof![Just(Vec::new()), number, Just(vec![0xff; 9])];
    fuzz("compiled", &(edits(lies), lengths, any::<Index>()), |(edits, length, at)| {
        let mut bytes = apply_edits(&sound, &edits);
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, length);
        if let Some(lean) = compiled::read(bytes, KINDS, &hash_of) {
            for one in &lean.expansion.instances {
                lean.expansion.find(&one.name);
                lean.expansion.points_of(&one.stage).count();
                one.parsed().ok();
            }
        }
    });
}
