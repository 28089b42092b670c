//! `command`: a program of the user as a stage. It runs in an empty folder with its inputs under their names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, InputSource, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Program, Reference, Stage,
    StageContext, Summary,
};

pub static KIND: Kind = Kind {
    name: "command",
    version: 1,
    about: "any program, with declared inputs, outputs and environment",
    outputs: &[],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
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
    /// `NAME` passes the variable through, `NAME=value` sets it.
    #[serde(default)]
    env: Vec<String>,
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

#[derive(Debug)]
struct Command {
    run: Run,
    inputs: BTreeMap<String, InputSource>,
    outputs: Vec<OutputSpec>,
    /// Variables with a given value.
    set: BTreeMap<String, String>,
    /// Variables that are passed through.
    inherited: Vec<String>,
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
    let (mut set, mut inherited) = (BTreeMap::new(), Vec::new());
    for (index, variable) in env.iter().enumerate() {
        let (name, value) =
            variable.split_once('=').map_or((variable.as_str(), None), |(name, value)| (name, Some(value)));
        let known = set.contains_key(name) || inherited.iter().any(|known| known == name);
        let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !valid || name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
            errors.push(ConfigError::at(&format!("env.{index}"), format!("`{name}` is not the name of a variable")));
        } else if known {
            errors.push(ConfigError::at(&format!("env.{index}"), format!("the variable `{name}` is given twice")));
        } else if let Some(value) = value {
            set.insert(name.to_string(), value.to_string());
        } else {
            inherited.push(name.to_string());
        }
    }
    if !dir.is_empty()
        && let Err(message) = check_name(&dir)
    {
        errors.push(ConfigError::at("dir", message));
    }
    if errors.is_empty() { Ok(Box::new(Command { run, inputs, outputs, set, inherited, dir })) } else { Err(errors) }
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
    if !stage.is_empty() && stage.chars().all(is_name) {
        return Ok(InputSource::Stage { reference: Reference::try_from(text.to_string())?, accepts: &[] });
    }
    if text.is_empty() {
        return Err("the input is empty: write a stage or a path".to_string());
    }
    Ok(InputSource::External { path: text.to_string() })
}

impl Stage for Command {
    fn identify(&self, manifest: &mut Manifest) {
        let Command { run, inputs: _, outputs, set, inherited: _, dir } = self;
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
            env: self.set.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            inherited_env: self.inherited.clone(),
            working_dir: self.dir.clone(),
            input_names: self.inputs.keys().map(|name| (role(name), name.clone())).collect(),
        })
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Elsewhere("a result of a program"))
    }

    fn run(&self, _: &StageContext) -> Result<Summary> {
        bail!("BUG: the executor runs the program of a command")
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
        "#]]
        .assert_eq(&tables.iter().map(outcome).collect::<String>());
    }
}
