//! `command`: a program of the user as a stage. It runs in an empty folder with its inputs under their names.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::stages::checkpoint_folders::CheckpointFolders;
use crate::stages::formats;
use ablate_core::base::Hash;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, HubRepository, Input, InputSource, Kind, Manifest, ModelOrigin, OutputChecker, OutputSpec, Pool,
    Program, Reference, Stage, StageContext, Summary, Work,
};

pub static KIND: Kind = Kind {
    name: "command",
    version: 1,
    about: "any program, with declared inputs, outputs and environment",
    outputs: &[],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    work: Work::of_rows,
    parse,
    schema: schema_of::<Table>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    run: Run,
    /// Name in the folder to its content: a stage, one output of a stage, or a path.
    #[serde(default)]
    inputs: BTreeMap<String, String>,
    outputs: OutputsTable,
    /// Environment variables of the program.
    #[serde(default)]
    env: EnvTable,
    /// Working directory of the program, relative to its folder.
    #[serde(default)]
    dir: String,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "wrong type, expected a line for the shell or a list of a program and its arguments")]
enum Run {
    Shell(String),
    Program(Vec<String>),
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "wrong type, expected a list of names, or a table of names and types such as `rows`")]
enum OutputsTable {
    Names(Vec<String>),
    Typed(BTreeMap<String, ArtifactKind>),
}

#[derive(Debug, schemars::JsonSchema)]
#[schemars(untagged)]
enum EnvTable {
    /// `NAME` passes a variable on as an input, `NAME=value` sets one.
    Names(Vec<String>),
    Table(EnvKeys),
}

impl Default for EnvTable {
    fn default() -> EnvTable {
        EnvTable::Names(Vec::new())
    }
}

// Not derived as untagged, because errors in the table would then have no key.
impl<'de> Deserialize<'de> for EnvTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EnvTable, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EnvTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of variables, or a table with `pass`, `inputs` and `set`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<EnvTable, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(EnvTable::Names)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<EnvTable, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(table)).map(EnvTable::Table)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct EnvKeys {
    /// Variables of the user's environment that do not change the output, such as tokens, caches and `PATH`; `HF_*` is
    /// all variables that begin with `HF_`.
    #[serde(default)]
    pass: Vec<String>,
    /// Variables of the user's environment that are inputs: a changed value reruns the stage.
    #[serde(default)]
    inputs: Vec<String>,
    /// Variables with their values.
    #[serde(default)]
    set: BTreeMap<String, EnvValue>,
}

/// The value of a variable, which may be written as a number.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "wrong type, expected a text or a number")]
enum EnvValue {
    Text(String),
    Number(serde_json::Number),
}

/// The environment of a program.
#[derive(Debug, Default)]
struct Env {
    /// Variables with a given value.
    set: BTreeMap<String, String>,
    /// Variables that are passed through and are inputs.
    inherited: Vec<String>,
    /// Variables that are passed through and are not inputs.
    passed: Vec<String>,
}

#[derive(Debug)]
struct Command {
    run: Run,
    inputs: BTreeMap<String, InputSource>,
    outputs: Vec<OutputSpec>,
    env: Env,
    dir: String,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let Table { run, inputs, outputs, env, dir } = config::parse(table)?;
    let mut errors = Vec::new();
    match &run {
        Run::Shell(line) if line.trim().is_empty() => errors.push(ConfigError::at("run", "the command is empty")),
        Run::Program(words) if words.first().is_none_or(String::is_empty) => {
            errors.push(ConfigError::at("run", "the list names no program"));
        }
        _ => {}
    }
    let outputs: Vec<OutputSpec> = match outputs {
        OutputsTable::Names(names) => names.into_iter().map(|name| (name, ArtifactKind::File)).collect(),
        OutputsTable::Typed(typed) => typed.into_iter().collect::<Vec<_>>(),
    }
    .into_iter()
    .map(|(name, kind)| OutputSpec { name: Cow::Owned(name), kind })
    .collect();
    if outputs.is_empty() {
        errors.push(ConfigError::at("outputs", "the list of outputs is empty: other stages could not read any result"));
    }
    for (index, spec) in outputs.iter().enumerate() {
        let mistake = check_name(&spec.name).err().or_else(|| {
            let earlier = outputs[..index].iter().map(|other| &*other.name).find(|other| overlap(other, &spec.name));
            let input = inputs.keys().map(String::as_str).find(|input| overlap(input, &spec.name));
            Some(match (earlier, input) {
                (Some(other), _) => format!("the outputs `{other}` and `{}` overlap", spec.name),
                (None, Some(input)) => format!("the output `{}` overlaps with the input `{input}`", spec.name),
                (None, None) => return None,
            })
        });
        errors.extend(mistake.map(|message| ConfigError::at("outputs", message)));
    }
    let inputs = inputs.into_iter().filter_map(|(name, text)| {
        let source = check_name(&name).and_then(|()| source(&text));
        match source {
            Ok(source) => Some((name, source)),
            Err(message) => {
                errors.push(ConfigError::invalid_value(vec!["inputs".to_string(), name], message));
                None
            }
        }
    });
    let inputs: BTreeMap<String, InputSource> = inputs.collect();
    let env = Env::parse(env, &mut errors);
    if !dir.is_empty()
        && let Err(message) = check_name(&dir)
    {
        errors.push(ConfigError::at("dir", message));
    }
    if errors.is_empty() { Ok(Box::new(Command { run, inputs, outputs, env, dir })) } else { Err(errors) }
}

impl Env {
    fn parse(table: EnvTable, errors: &mut Vec<ConfigError>) -> Env {
        // Each variable with its key and its role.
        let mut variables: Vec<(String, String, Variable)> = Vec::new();
        match table {
            EnvTable::Names(names) => {
                for (index, text) in names.into_iter().enumerate() {
                    let (name, variable) = match text.split_once('=') {
                        Some((name, value)) => (name.to_string(), Variable::Set(value.to_string())),
                        None => (text, Variable::Inherited),
                    };
                    variables.push((format!("env.{index}"), name, variable));
                }
            }
            EnvTable::Table(EnvKeys { pass, inputs, set }) => {
                for (key, names, variable) in
                    [("pass", pass, Variable::Passed), ("inputs", inputs, Variable::Inherited)]
                {
                    let key = |index: usize| format!("env.{key}.{index}");
                    variables.extend(
                        names.into_iter().enumerate().map(|(index, name)| (key(index), name, variable.clone())),
                    );
                }
                for (name, value) in set {
                    let value = match value {
                        EnvValue::Text(text) => text,
                        EnvValue::Number(number) => number.to_string(),
                    };
                    variables.push((format!("env.set.{name}"), name, Variable::Set(value)));
                }
            }
        }
        let mut env = Env::default();
        let mut known = BTreeSet::new();
        for (key, name, variable) in variables {
            let pattern = variable == Variable::Passed;
            let bare = name.strip_suffix('*').filter(|_| pattern).unwrap_or(&name);
            let valid = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !valid || bare.is_empty() || bare.as_bytes()[0].is_ascii_digit() {
                let help = (bare.split_once('=').filter(|_| pattern))
                    .map(|(name, _)| format!("values are given in `set`: `env = {{ set = {{ {name} = \"...\" }} }}`"));
                let error = ConfigError::at(&key, format!("`{name}` is not the name of a variable"));
                errors.push(ConfigError { help, ..error });
            } else if !known.insert(name.clone()) {
                errors.push(ConfigError::at(&key, format!("the variable `{name}` is given twice")));
            } else {
                match variable {
                    Variable::Set(value) => drop(env.set.insert(name, value)),
                    Variable::Inherited => env.inherited.push(name),
                    Variable::Passed => env.passed.push(name),
                }
            }
        }
        env
    }
}

#[derive(Clone, PartialEq)]
enum Variable {
    Set(String),
    Inherited,
    Passed,
}

/// Checks a path inside the program's folder: relative, normalized, without `.` and `..`.
fn check_name(name: &str) -> Result<(), String> {
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
    let clean = !name.is_empty() && !name.ends_with('/') && !name.contains("//") && !name.contains('\0');
    if clean && Path::new(name).components().all(normal) && !name.split('/').any(|part| part == ".") {
        return Ok(());
    }
    Err(format!("`{name}` is not a path inside the stage's folder: write a relative path without `.` and `..`"))
}

/// Whether the paths are equal, or one is below the other.
fn overlap(one: &str, other: &str) -> bool {
    Path::new(one).starts_with(other) || Path::new(other).starts_with(one)
}

/// A plain name is a stage. A text with other characters, such as `/` or `.`, before any `:` or `@` is a path.
fn source(text: &str) -> Result<InputSource, String> {
    let stage = text.split([':', '@']).next().unwrap_or_default();
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    if !stage.is_empty() && stage.chars().all(is_name) && !text.starts_with("hf://") {
        return Ok(InputSource::Stage { reference: Reference::try_from(text.to_string())?, accepts: &[] });
    }
    if text.is_empty() {
        return Err("the input is empty: write a stage or a path".to_string());
    }
    Ok(InputSource::External { path: text.to_string(), hub: HubRepository::Any })
}

impl Stage for Command {
    fn identify(&self, manifest: &mut Manifest) {
        let Command { run, inputs: _, outputs, env, dir } = self;
        let Env { set, inherited: _, passed: _ } = env;
        manifest.value("run", run);
        for OutputSpec { name, kind } in outputs {
            manifest.value(&format!("outputs.{name}"), kind);
        }
        for (name, value) in set {
            manifest.value(&format!("env.{name}"), value);
        }
        manifest.value_unless("dir", dir, &String::new());
    }

    fn inputs(&self) -> Vec<Input> {
        let inputs = self.inputs.iter().map(|(name, source)| Input { role: role(name), source: source.clone() });
        let variables = self
            .env
            .inherited
            .iter()
            .map(|name| Input { role: format!("env.{name}"), source: InputSource::Environment { name: name.clone() } });
        inputs.chain(variables).collect()
    }

    fn outputs(&self) -> Option<Vec<OutputSpec>> {
        Some(self.outputs.clone())
    }

    fn program(&self) -> Option<Program> {
        let argv = match &self.run {
            Run::Shell(line) => vec!["/bin/sh".to_string(), "-c".to_string(), line.clone()],
            Run::Program(words) => words.clone(),
        };
        Some(Program {
            argv,
            env: self.env.set.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            inherited_env: self.env.inherited.clone(),
            passed_env: self.env.passed.clone(),
            working_dir: self.dir.clone(),
            input_names: self.inputs.keys().map(|name| (role(name), name.clone())).collect(),
        })
    }

    fn output_checker(&self, output: &OutputSpec, packs: &BTreeMap<Hash, PathBuf>) -> Option<Box<dyn OutputChecker>> {
        formats::checker(output, packs)
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Elsewhere("a result of a program"))
    }

    /// Writes inputs that are adapters as whole models: programs read neither the store nor `bases.json`.
    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        for name in self.inputs.keys().filter(|name| ctx.inputs.contains_key(&role(name))) {
            CheckpointFolders::of_input(ctx, &role(name))?.write_merged(&ctx.output(name))?;
        }
        Ok(Summary::default())
    }
}

fn role(name: &str) -> String {
    format!("inputs.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::{Value, json};

    fn outcome(table: &Value) -> String {
        match parse(table) {
            Ok(stage) => format!("{:?}\n", stage.inputs().iter().map(|input| &input.role).collect::<Vec<_>>()),
            Err(errors) => {
                let lines = errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message));
                lines.collect::<Vec<_>>().join("\n") + "\n"
            }
        }
    }

    #[test]
    fn mistakes_have_their_keys() {
        let tables = [
            json!({
                "run": "cat a > b", "inputs": { "a": "data/a.txt", "w": "sft@lr=0.1:model" }, "outputs": ["b"],
                "env": ["HOME"],
            }),
            json!({ "run": " ", "outputs": [] }),
            json!({ "run": [], "outputs": ["../b", "/b", "a/./b", "c/"] }),
            json!({ "run": 3, "outputs": "b" }),
            json!({ "run": "x", "outputs": { "b": "rowz" } }),
            json!({ "run": "x", "outputs": ["b", "b/c", "in/x"], "inputs": { "in": "./in", "../x": "./y", "z": "" } }),
            json!({ "run": "x", "outputs": ["b"], "env": ["A", "A=1", "1B", "C D=2"], "dir": ".." }),
            json!({ "run": "x", "outputs": ["b"], "env": { "pass": ["PATH", "HF_*"], "inputs": ["A"], "set": { "B": 2 } } }),
            json!({ "run": "x", "outputs": ["b"], "env": { "pass": ["A=1", "*", "B"], "inputs": ["B", "C*"] } }),
            json!({ "run": "x", "outputs": ["b"], "env": { "past": ["A"] } }),
            json!({ "run": "x", "outputs": ["b"], "env": { "set": { "A": [1] } } }),
        ];
        expect![[r#"
            ["inputs.a", "inputs.w", "env.HOME"]
            run: the command is empty
            outputs: the list of outputs is empty: other stages could not read any result
            run: the list names no program
            outputs: `../b` is not a path inside the stage's folder: write a relative path without `.` and `..`
            outputs: `/b` is not a path inside the stage's folder: write a relative path without `.` and `..`
            outputs: `a/./b` is not a path inside the stage's folder: write a relative path without `.` and `..`
            outputs: `c/` is not a path inside the stage's folder: write a relative path without `.` and `..`
            run: wrong type, expected a line for the shell or a list of a program and its arguments
            outputs: wrong type, expected a list of names, or a table of names and types such as `rows`
            outputs: wrong type, expected a list of names, or a table of names and types such as `rows`
            outputs: the outputs `b` and `b/c` overlap
            outputs: the output `in/x` overlaps with the input `in`
            inputs.../x: `../x` is not a path inside the stage's folder: write a relative path without `.` and `..`
            inputs.z: the input is empty: write a stage or a path
            env.1: the variable `A` is given twice
            env.2: `1B` is not the name of a variable
            env.3: `C D` is not the name of a variable
            dir: `..` is not a path inside the stage's folder: write a relative path without `.` and `..`
            ["env.A"]
            env.pass.0: `A=1` is not the name of a variable
            env.pass.1: `*` is not the name of a variable
            env.inputs.0: the variable `B` is given twice
            env.inputs.1: `C*` is not the name of a variable
            env.past: unknown key `past`
            env.set.A: wrong type, expected a text or a number
        "#]]
        .assert_eq(&tables.iter().map(outcome).collect::<String>());
    }
}
