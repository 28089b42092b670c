//! `command`: any program of the user's as a stage. It runs in a clean folder that holds its inputs by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Program, Reference, Stage, StageContext,
    Summary,
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
    /// Names in the folder to what is seen there: a stage, one output of a stage, or a path.
    #[serde(default)]
    inputs: BTreeMap<String, String>,
    outputs: Outputs,
    /// `NAME` keeps the value that it has outside, `NAME=value` has its own.
    #[serde(default)]
    env: Vec<String>,
    /// Where the program starts, below its folder.
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
enum Outputs {
    Names(Vec<String>),
    Typed(BTreeMap<String, ArtifactKind>),
}

#[derive(Debug)]
struct Command {
    run: Run,
    inputs: BTreeMap<String, InputSource>,
    outputs: Vec<OutputSpec>,
    fixed: BTreeMap<String, String>,
    passed: Vec<String>,
    dir: String,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let Table { run, inputs, outputs, env, dir } = config::parse(table)?;
    let mut errors = Vec::new();
    match &run {
        Run::Shell(line) if line.trim().is_empty() => errors.push(ConfigError::at("run", "there is nothing to run")),
        Run::Program(words) if words.first().is_none_or(String::is_empty) => {
            errors.push(ConfigError::at("run", "the list names no program"));
        }
        _ => {}
    }
    let outputs: Vec<OutputSpec> = match outputs {
        Outputs::Names(names) => names.into_iter().map(|name| (name, ArtifactKind::File)).collect(),
        Outputs::Typed(typed) => typed.into_iter().collect::<Vec<_>>(),
    }
    .into_iter()
    .map(|(name, kind)| OutputSpec { name: Cow::Owned(name), kind })
    .collect();
    if outputs.is_empty() {
        errors.push(ConfigError::at("outputs", "a stage without an output changes nothing that anybody could read"));
    }
    for (place, spec) in outputs.iter().enumerate() {
        let wrong = check_name(&spec.name).err().or_else(|| {
            let earlier = outputs[..place].iter().map(|other| &*other.name).find(|other| overlap(other, &spec.name));
            let input = inputs.keys().map(String::as_str).find(|input| overlap(input, &spec.name));
            Some(match (earlier, input) {
                (Some(other), _) => format!("the outputs `{other}` and `{}` overlap", spec.name),
                (None, Some(input)) => format!("the output `{}` is in the place of the input `{input}`", spec.name),
                (None, None) => return None,
            })
        });
        errors.extend(wrong.map(|message| ConfigError::at("outputs", message)));
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
    let (mut fixed, mut passed) = (BTreeMap::new(), Vec::new());
    for (place, variable) in env.iter().enumerate() {
        let (name, value) =
            variable.split_once('=').map_or((variable.as_str(), None), |(name, value)| (name, Some(value)));
        let known = fixed.contains_key(name) || passed.iter().any(|known| known == name);
        let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !letters || name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
            errors.push(ConfigError::at(&format!("env.{place}"), format!("`{name}` is not the name of a variable")));
        } else if known {
            errors.push(ConfigError::at(&format!("env.{place}"), format!("the variable `{name}` is given twice")));
        } else if let Some(value) = value {
            fixed.insert(name.to_string(), value.to_string());
        } else {
            passed.push(name.to_string());
        }
    }
    if !dir.is_empty()
        && let Err(message) = check_name(&dir)
    {
        errors.push(ConfigError::at("dir", message));
    }
    if errors.is_empty() { Ok(Box::new(Command { run, inputs, outputs, fixed, passed, dir })) } else { Err(errors) }
}

/// A name in the program's folder: no way out of it, and nothing that two programs would read differently.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let tidy = !name.is_empty() && !name.ends_with('/') && !name.contains("//") && !name.contains('\0');
    if tidy && Path::new(name).components().all(plain) && !name.split('/').any(|part| part == ".") {
        return Ok(());
    }
    Err(format!("`{name}` is no name inside the stage's folder: write a relative path without `.` and `..`"))
}

/// Whether one path is the other, or lies below it.
fn overlap(one: &str, other: &str) -> bool {
    Path::new(one).starts_with(other) || Path::new(other).starts_with(one)
}

/// A bare name is a stage; what has a `/` or a `.` before any `:` or `@` is a path.
fn source(text: &str) -> Result<InputSource, String> {
    let stage = text.split([':', '@']).next().unwrap_or_default();
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    if !stage.is_empty() && stage.chars().all(is_name) {
        return Ok(InputSource::Stage { reference: Reference::try_from(text.to_string())?, accepts: &[] });
    }
    if text.is_empty() {
        return Err("an input needs a stage or a path".to_string());
    }
    Ok(InputSource::External { path: text.to_string() })
}

impl Stage for Command {
    fn identify(&self, manifest: &mut Manifest) {
        let Command { run, inputs: _, outputs, fixed, passed: _, dir } = self;
        manifest.value("run", run);
        for OutputSpec { name, kind } in outputs {
            manifest.value(&format!("outputs.{name}"), kind);
        }
        for (name, value) in fixed {
            manifest.value(&format!("env.{name}"), value);
        }
        manifest.value_unless("dir", dir, &String::new());
    }

    fn inputs(&self) -> Vec<Input> {
        let inputs = self.inputs.iter().map(|(name, source)| Input { role: role(name), source: source.clone() });
        let passed = self
            .passed
            .iter()
            .map(|name| Input { role: format!("env.{name}"), source: InputSource::Environment { name: name.clone() } });
        inputs.chain(passed).collect()
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
            env: self.fixed.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            inherited_env: self.passed.clone(),
            working_dir: self.dir.clone(),
            input_names: self.inputs.keys().map(|name| (role(name), name.clone())).collect(),
        })
    }

    fn run(&self, _: &StageContext) -> Result<Summary> {
        bail!("BUG: a command is a program, which the executor runs")
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

    fn told(table: &Value) -> String {
        match parse(table) {
            Ok(stage) => format!("{:?}\n", stage.inputs().iter().map(|input| &input.role).collect::<Vec<_>>()),
            Err(errors) => {
                let told = errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message));
                told.collect::<Vec<_>>().join("\n") + "\n"
            }
        }
    }

    #[test]
    fn mistakes_are_told_at_their_keys() {
        let tables = [
            json!({ "run": "cat a > b", "inputs": { "a": "data/a.txt", "w": "sft@lr=0.1:model" }, "outputs": ["b"], "env": ["HOME"] }),
            json!({ "run": " ", "outputs": [] }),
            json!({ "run": [], "outputs": ["../b", "/b", "a/./b", "c/"] }),
            json!({ "run": 3, "outputs": "b" }),
            json!({ "run": "x", "outputs": { "b": "rowz" } }),
            json!({ "run": "x", "outputs": ["b", "b/c", "in/x"], "inputs": { "in": "./in", "../x": "./y", "z": "" } }),
            json!({ "run": "x", "outputs": ["b"], "env": ["A", "A=1", "1B", "C D=2"], "dir": ".." }),
        ];
        expect![[r#"
            ["inputs.a", "inputs.w", "env.HOME"]
            run: there is nothing to run
            outputs: a stage without an output changes nothing that anybody could read
            run: the list names no program
            outputs: `../b` is no name inside the stage's folder: write a relative path without `.` and `..`
            outputs: `/b` is no name inside the stage's folder: write a relative path without `.` and `..`
            outputs: `a/./b` is no name inside the stage's folder: write a relative path without `.` and `..`
            outputs: `c/` is no name inside the stage's folder: write a relative path without `.` and `..`
            run: wrong type, expected a line for the shell or a list of a program and its arguments
            outputs: wrong type, expected a list of names, or a table of names and types such as `rows`
            outputs: wrong type, expected a list of names, or a table of names and types such as `rows`
            outputs: the outputs `b` and `b/c` overlap
            outputs: the output `in/x` is in the place of the input `in`
            inputs.../x: `../x` is no name inside the stage's folder: write a relative path without `.` and `..`
            inputs.z: an input needs a stage or a path
            env.1: the variable `A` is given twice
            env.2: `1B` is not the name of a variable
            env.3: `C D` is not the name of a variable
            dir: `..` is no name inside the stage's folder: write a relative path without `.` and `..`
        "#]]
        .assert_eq(&tables.iter().map(told).collect::<String>());
    }
}
