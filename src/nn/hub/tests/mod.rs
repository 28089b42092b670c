//! Folders as transformers and PEFT write them, and folders that are wrong.

mod adapters;
mod bad_configs;
mod bad_folders;
mod configs;
mod folders;
mod published;

use std::path::Path;

use serde_json::{Map, Value};

use super::writer::{self, Output};
use super::{Config, Dtype};
use crate::parameters::{Parameter, Part};
use ablate_core::base::files;

/// The config in a JSON text.
fn config(text: &str) -> anyhow::Result<Config> {
    let object: Map<String, Value> = serde_json::from_str(text).unwrap();
    Config::of(&object)
}

/// Writes F32 arrays (name, shape), each counting up from its place in the list, as a model's only file.
fn write_arrays(folder: &Path, arrays: &[(&str, &[usize])]) {
    let values: Vec<Vec<f32>> = (0..arrays.len())
        .map(|start| (0..arrays[start].1.iter().product()).map(|at: usize| (start + at) as f32).collect())
        .collect();
    let outputs: Vec<Output> = arrays
        .iter()
        .zip(&values)
        .map(|((name, shape), values)| Output {
            name: (*name).to_string(),
            shape: shape.to_vec(),
            dtype: Dtype::F32,
            values,
        })
        .collect();
    writer::write(folder, &outputs).unwrap();
}

/// Puts a text where a file is.
fn put(folder: &Path, name: &str, text: &str) {
    files::write_atomic(&folder.join(name), text.as_bytes()).unwrap();
}

/// An error as one line, the folder's path left out.
fn told<T>(result: anyhow::Result<T>, folder: &Path) -> String {
    let Err(error) = result else { panic!("is no error") };
    format!("{error:#}").replace(&folder.display().to_string(), "DIR")
}

/// A parameter by name and shape; nothing else of it is looked at.
fn parameter(name: &str, shape: &[usize]) -> Parameter {
    Parameter { name: name.to_string(), shape: shape.to_vec(), part: Part::Decoder, deviation: None, used: true }
}
