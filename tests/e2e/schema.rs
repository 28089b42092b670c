//! `schema`: accepts every shipped experiment and rejects errors that an editor should mark.

use std::fs;

use jsonschema::Validator;
use serde_json::Value;

use crate::support::{Project, files_below, repository};

/// The schema as the program prints it.
pub(crate) fn schema() -> Value {
    serde_json::from_str(&Project::new().ok(&["schema"]).stdout).unwrap()
}

/// The errors that the schema finds in a text, with their paths.
fn schema_errors(validator: &Validator, text: &str) -> Vec<String> {
    let value: Value = toml::from_str(text).unwrap();
    validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn shipped_experiments_are_accepted() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    let folders = ["experiments", "src/cli/templates", "tests/wrong/parts"];
    let mut files = folders.map(|folder| files_below(&repository(folder))).concat();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert!(files.len() > 30, "{} files", files.len());
    for path in files {
        let problems = schema_errors(&validator, &fs::read_to_string(&path).unwrap());
        assert!(problems.is_empty(), "{}\n{}", path.display(), problems.join("\n"));
    }
}

#[test]
fn parts_and_variables_are_accepted() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    for text in [
        // No kind: another file sets it.
        "stage.sft = { lr = 1e-5 }",
        "stage.sft = { kind = 'sft', lr = '${lr}', epochs = '${epochs}', freeze = '${parts}', schedule = '${s}' }",
        "stage.items = { kind = 'items', synthetic = '${world}' }",
        "stage.more = { kind = '${kind}', lr = 1e-5 }",
        "stage.eval = { kind = 'eval', model = ['sft', 'dpo'], prompt = '${prompts}', max_tokens = 48 }",
        "stage.eval = { kind = 'eval', prompt = ['cot', { name = 'terse', style = 'direct', text = 'One word.' }] }",
        "stage.mix = { kind = 'mix', sources = { a = 'remove', b = { from = 'x', rows = '${rows}' } } }",
        "stage.pairs = { kind = 'pairs', truncate = 'none', when = ['mix=both', 'mix=direct'] }",
        "stage.pairs = { kind = 'pairs', truncate = { words = 70 }, limits = { time = 90, retries = 1 } }",
        "extends = ['a.toml', 'b.toml']\nvars.lr = 1e-5\nseeds.values = [0, 1]",
        "axis.ratio = { simplex = ['stage.mix.sources.a.weight', 'stage.mix.sources.b.weight'], step = 0.25 }",
        "axis.search = { points = 8, random = [{ key = 'stage.sft.lr', log_uniform = [1e-6, 1e-4] }] }",
    ] {
        let problems = schema_errors(&validator, text);
        assert!(problems.is_empty(), "{text}\n{}", problems.join("\n"));
    }
}

#[test]
fn errors_have_the_right_path() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    for (text, place) in [
        ("stages.sft = {}", ""),
        ("stage.sft = { kind = 'stf' }", "/stage/sft/kind"),
        ("stage.sft = { kind = 'sft', epcohs = 2 }", "/stage/sft"),
        ("stage.sft = { epcohs = 2 }", "/stage/sft"),
        ("stage.dpo = { kind = 'dpo', max_tokens = 48 }", "/stage/dpo"),
        ("stage.sft = { kind = 'sft', lr = 'fast' }", "/stage/sft/lr"),
        ("stage.sft = { kind = 'sft', epochs = 1.5 }", "/stage/sft/epochs"),
        ("stage.sft = { kind = 'sft', epochs = -1 }", "/stage/sft/epochs"),
        ("stage.sft = { kind = 'sft', schedule = 'cosin' }", "/stage/sft/schedule"),
        ("stage.sft = { kind = 'sft', betas = [0.9] }", "/stage/sft/betas"),
        ("stage.sft = { kind = 'sft', freeze = ['tower'] }", "/stage/sft/freeze/0"),
        ("stage.dpo = { kind = 'dpo', policy = ['a', 'b'] }", "/stage/dpo/policy"),
        ("stage.base = { kind = 'base', model = { decoder = { head = 4 } } }", "/stage/base/model/decoder"),
        ("stage.items = { kind = 'items', synthetic = { datasets = ['chrat'] } }", "/stage/items/synthetic/datasets/0"),
        ("stage.mix = { kind = 'mix', sources = { a = { form = 'x' } } }", "/stage/mix/sources/a"),
        ("stage.mix = { kind = 'mix', sources = { a = 'removed' } }", "/stage/mix/sources/a"),
        ("stage.pairs = { kind = 'pairs', truncate = { wrods = 9 } }", "/stage/pairs/truncate"),
        ("stage.eval = { kind = 'eval', prompt = 'chain' }", "/stage/eval/prompt"),
        ("stage.sft = { kind = 'sft', limits = { tiem = '2h' } }", "/stage/sft/limits"),
        ("stage.a = { kind = 'command', outputs = { x = 'row' } }", "/stage/a/outputs"),
        ("axis.lr = { key = 'stage.sft.lr', value = [1] }", "/axis/lr"),
        ("axis.s = { random = [{ key = 'stage.sft.lr', log_uniform = [1e-6] }] }", "/axis/s/random/0/log_uniform"),
        ("report.main = { metric = 'accurracy' }", "/report/main/metric"),
        ("report.main = { contrasts = [{ nmae = 'x' }] }", "/report/main/contrasts/0"),
        ("points = { zip = ['a', 'b'] }", "/points/zip/0"),
        ("seeds = { values = ['one'] }", "/seeds/values/0"),
        ("settings = { jobs = 'all' }", "/settings/jobs"),
    ] {
        let problems = schema_errors(&validator, text);
        assert!(!problems.is_empty(), "{text} is accepted");
        let known = problems.iter().any(|problem| problem.starts_with(&format!("{place}:")));
        assert!(known, "{text} is marked elsewhere\n{}", problems.join("\n"));
    }
}
