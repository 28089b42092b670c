//! Folders as transformers and PEFT write them, and invalid folders.

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
use crate::parameters::{ParamGroup, Parameter};
use ablate_core::base::files;

/// The config of a JSON text.
fn config(text: &str) -> anyhow::Result<Config> {
    let object: Map<String, Value> = serde_json::from_str(text).unwrap();
    Config::of(&object)
}

/// Writes F32 arrays (name, shape) into `model.safetensors`. The values of array `i` are `i`, `i + 1`, ...
fn write_arrays(folder: &Path, arrays: &[(&str, &[usize])]) {
    let values: Vec<Vec<f32>> = (0..arrays.len())
        .map(|start| (0..arrays[start].1.iter().product()).map(|at: usize| (start + at) as f32).collect())
        .collect();
    let outputs = arrays.iter().zip(&values).map(|((name, shape), values)| {
        let (name, shape) = ((*name).to_string(), shape.to_vec());
        Output { name, shape, dtype: Dtype::F32, values }
    });
    writer::write(folder, &outputs.collect::<Vec<_>>()).unwrap();
}

/// Writes a text file.
fn put(folder: &Path, name: &str, text: &str) {
    files::write_atomic(&folder.join(name), text.as_bytes()).unwrap();
}

/// An error as one line, with `DIR` for the path of the folder.
fn message<T>(result: anyhow::Result<T>, folder: &Path) -> String {
    let Err(error) = result else { panic!("no error") };
    format!("{error:#}").replace(&folder.display().to_string(), "DIR")
}

/// A parameter with this name and shape. The other fields are not used.
fn parameter(name: &str, shape: &[usize]) -> Parameter {
    Parameter { name: name.to_string(), shape: shape.to_vec(), group: ParamGroup::Decoder, init_std: None, used: true }
}
