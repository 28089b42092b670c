//! A checkpoint: the architecture and the weights of a model, in memory and on disk.
//!
//! On disk it has Hugging Face's layout (`hub`) or ablate's own:
//!
//! ```text
//! checkpoint/
//!   config.json         sizes, vocabulary, id of the image token, format number
//!   model.safetensors   one f32 array per parameter, by Hugging Face name
//! ```
//!
//! Equal checkpoints give equal bytes. Other files in the folder are not touched.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::architecture::Architecture;
use super::arrays::{self, Array};
use super::config::ModelConfig;
use super::hub::{self, Config, Dtype, StorageFormat};
use super::parameters::{Parameter, parameters};
use ablate_core::base::system_memory::system_memory;
use ablate_core::base::{Seed, files};

/// The architecture and the weights of a model.
#[derive(Clone, PartialEq)]
pub struct Checkpoint {
    pub architecture: Architecture,
    /// The layout on disk.
    pub(crate) layout: Layout,
    /// Values by parameter, in the order of [`parameters`]. Clones of a checkpoint share them until one is changed.
    pub weights: Vec<Arc<Vec<f32>>>,
}

/// The layout of a checkpoint on disk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Layout {
    /// Ablate's own, with the sizes of the user's table.
    Own(ModelConfig),
    /// Hugging Face's.
    Hub(Box<Hub>),
}

/// The content of a Hugging Face folder that is written back unchanged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hub {
    /// `config.json`.
    config: Map<String, Value>,
    /// `image_grid_pinpoints`: heights and widths of the possible grids of tiles.
    resolutions: Vec<(usize, usize)>,
    /// Unknown fields of `config.json`, with their values.
    unknown: Vec<String>,
    format: StorageFormat,
}

/// The number types with which weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The imported type, or F32 for an array that this type would round: nothing is lost.
    Exact,
    /// The imported type of each array.
    AsImported,
    /// This type for all arrays.
    To(Dtype),
}

/// The content of our own `config.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    vocab: usize,
    image_token: u32,
    model: ModelConfig,
}

/// The format number of `config.json`.
pub const FORMAT: u32 = 1;
pub(crate) const MAX_VOCAB: usize = 1 << 24;
/// 1 TiB of weights.
pub(crate) const MAX_PARAMETERS: u128 = 1 << 38;
/// Every block also costs a fixed amount of memory.
pub(crate) const MAX_LAYERS: usize = 10_000;

impl Checkpoint {
    /// Initial weights, drawn from `seed` by parameter name.
    pub fn initialize(config: &ModelConfig, vocab: usize, image_token: u32, seed: Seed) -> Result<Checkpoint> {
        check(config, vocab, image_token)?;
        let architecture = Architecture::from_config(config, vocab, image_token);
        let init = |parameter: &Parameter| Arc::new(parameter.init(seed));
        let weights = parameters(&architecture).iter().map(init).collect();
        Ok(Checkpoint { architecture, layout: Layout::Own(config.clone()), weights })
    }

    /// Reads a folder and checks every name, shape and value.
    pub fn read(folder: &Path) -> Result<Checkpoint> {
        let path = folder.join("config.json");
        let config: Map<String, Value> = files::read_json(&path)?;
        if config.contains_key("model_type") || config.contains_key("architectures") {
            return Checkpoint::read_hub(folder, config);
        }
        let (model, architecture) = read_header(&path)?;
        let expected: Vec<(String, Vec<usize>)> =
            parameters(&architecture).into_iter().map(|parameter| (parameter.name, parameter.shape)).collect();
        let (weights, _) = arrays::read(&folder.join("model.safetensors"), &expected)?;
        let weights = weights.into_iter().map(Arc::new).collect();
        Ok(Checkpoint { architecture, layout: Layout::Own(model), weights })
    }

    /// The sizes of a checkpoint. Only its `config.json` is read.
    pub fn read_architecture(folder: &Path) -> Result<Architecture> {
        let path = folder.join("config.json");
        let config: Map<String, Value> = files::read_json(&path)?;
        if config.contains_key("model_type") || config.contains_key("architectures") {
            let Config { architecture, .. } = Config::of(&config).with_context(|| format!("`{}`", path.display()))?;
            return Ok(architecture);
        }
        Ok(read_header(&path)?.1)
    }

    fn read_hub(folder: &Path, config: Map<String, Value>) -> Result<Checkpoint> {
        let Config { mut architecture, pinpoints: resolutions, tied_by_default, unknown } =
            Config::of(&config).with_context(|| format!("`{}`", folder.join("config.json").display()))?;
        if tied_by_default {
            architecture.decoder.tied_head = hub::model::is_tied(folder, &architecture)?;
        }
        if let Some(reason) = system_memory().and_then(|memory| Checkpoint::too_large(&architecture, memory)) {
            bail!("`{}`: {reason}", folder.display());
        }
        let (weights, format) = hub::model::read(folder, &architecture, &parameters(&architecture))?;
        let weights = weights.into_iter().map(Arc::new).collect();
        Ok(Checkpoint {
            architecture,
            layout: Layout::Hub(Box::new(Hub { config, resolutions, unknown, format })),
            weights,
        })
    }

    /// Writes `config.json` and the weights, each file atomically and without rounding.
    pub fn write(&self, folder: &Path) -> Result<()> {
        self.write_rounded(folder, Rounding::Exact)
    }

    /// As [`Checkpoint::write`], with rounding. Our own layout always has F32.
    pub fn write_rounded(&self, folder: &Path, rounding: Rounding) -> Result<()> {
        let Checkpoint { architecture, layout, weights } = self;
        let model = match layout {
            Layout::Own(model) => model,
            Layout::Hub(hub) => {
                let mut config = hub.config.clone();
                if let Some(dtype) = hub::model::write(folder, &hub.format, &self.list(), weights, rounding)? {
                    hub::config::set_dtype(&mut config, dtype);
                }
                return files::write_json(&folder.join("config.json"), &config);
            }
        };
        let Some(vision) = &architecture.vision else { bail!("BUG: a model in our own layout without a vision tower") };
        let (vocab, image_token) = (architecture.vocab, vision.image_token);
        let header = Header { format: FORMAT, vocab, image_token, model: model.clone() };
        files::write_json(&folder.join("config.json"), &header)?;
        let arrays: Vec<Array> = self
            .list()
            .into_iter()
            .zip(weights)
            .map(|(parameter, values)| Array { name: parameter.name, shape: parameter.shape, values })
            .collect();
        arrays::write(&folder.join("model.safetensors"), arrays, hub::writer::FORMAT)
    }

    /// The sizes of a model in our own layout; none for Hugging Face's.
    pub fn own_sizes(&self) -> Option<&ModelConfig> {
        match &self.layout {
            Layout::Own(model) => Some(model),
            Layout::Hub(_) => None,
        }
    }

    /// Whether the checkpoint has our own layout and not Hugging Face's.
    pub fn is_own(&self) -> bool {
        self.own_sizes().is_some()
    }

    /// `image_grid_pinpoints` of LLaVA-NeXT: heights and widths in pixels of the possible grids of tiles; empty for other models.
    pub fn resolutions(&self) -> &[(usize, usize)] {
        match &self.layout {
            Layout::Own(_) => &[],
            Layout::Hub(hub) => &hub.resolutions,
        }
    }

    /// Unknown fields of a Hugging Face `config.json`, with their values. They were ignored.
    pub fn unknown_fields(&self) -> &[String] {
        match &self.layout {
            Layout::Own(_) => &[],
            Layout::Hub(hub) => &hub.unknown,
        }
    }

    /// Checks the `config.json` of a folder as [`Checkpoint::read`] does, without reading weights. Returns the unknown fields,
    /// or none for our own layout, which is not checked.
    pub fn check_config(folder: &Path) -> Result<Option<Vec<String>>> {
        let path = folder.join("config.json");
        let config: Map<String, Value> = files::read_json(&path)?;
        if !config.contains_key("model_type") && !config.contains_key("architectures") {
            return Ok(None);
        }
        let Config { unknown, .. } = Config::of(&config).with_context(|| format!("`{}`", path.display()))?;
        Ok(Some(unknown))
    }

    /// Why a model of this architecture does not fit into `memory` bytes; none if it does.
    pub fn too_large(architecture: &Architecture, memory: u64) -> Option<String> {
        let parameters: u64 = parameters(architecture).iter().map(|parameter| parameter.len() as u64).sum();
        let bytes = parameters * size_of::<f32>() as u64;
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        (bytes > memory).then(|| {
            format!(
                "the model has {parameters} parameters, which take {:.1} GiB in F32: this machine has {:.1} GiB of memory",
                gib(bytes),
                gib(memory)
            )
        })
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.weights.iter().map(|weights| weights.len()).sum()
    }

    /// The parameters, in the order of the weights.
    pub(crate) fn list(&self) -> Vec<Parameter> {
        parameters(&self.architecture)
    }
}

impl fmt::Debug for Checkpoint {
    /// The weights are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checkpoint { architecture, layout: _, weights: _ } = self;
        f.debug_struct("Checkpoint")
            .field("architecture", architecture)
            .field("parameters", &self.parameters())
            .finish_non_exhaustive()
    }
}

/// Sizes and architecture from our own `config.json`.
fn read_header(path: &Path) -> Result<(ModelConfig, Architecture)> {
    let Header { format, vocab, image_token, model } = files::read_json(path)?;
    if format != FORMAT {
        bail!("`{}` has the format {format}, this program reads {FORMAT}", path.display());
    }
    check(&model, vocab, image_token).with_context(|| format!("`{}`", path.display()))?;
    let architecture = Architecture::from_config(&model, vocab, image_token);
    Ok((model, architecture))
}

/// Checks sizes from a file before memory is allocated for them.
fn check(config: &ModelConfig, vocab: usize, image_token: u32) -> Result<()> {
    if let Err(wrong) = config.check() {
        let lines: Vec<String> = wrong.iter().map(|(key, message)| format!("`{key}` {message}")).collect();
        bail!("{}", lines.join("; "));
    }
    if vocab == 0 || vocab > MAX_VOCAB {
        bail!("a vocabulary of {vocab} tokens: must be between 1 and {MAX_VOCAB}");
    }
    if image_token as usize >= vocab {
        bail!("the image token {image_token} is outside the vocabulary of {vocab} tokens");
    }
    let ModelConfig { vision, decoder, .. } = config;
    let block = |layers: usize, dim: usize, ff: usize| {
        let (layers, dim, ff) = (layers as u128, dim as u128, ff as u128);
        layers * (4 * dim * dim + 3 * dim * ff)
    };
    let total = block(vision.layers, vision.dim, vision.ff)
        + block(decoder.layers, decoder.dim, decoder.ff)
        + (config.image_tokens() as u128 + config.patch_values() as u128) * vision.dim as u128
        + config.projector.hidden as u128 * (vision.dim as u128 + decoder.dim as u128)
        + 2 * vocab as u128 * decoder.dim as u128;
    if total > MAX_PARAMETERS {
        bail!("these sizes give a model of {total} parameters: at most {MAX_PARAMETERS} are possible");
    }
    if vision.layers + decoder.layers > MAX_LAYERS {
        bail!("{} layers: at most {MAX_LAYERS} are possible", vision.layers + decoder.layers);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Checkpoint {
        Checkpoint::initialize(&ModelConfig::default(), 20, 1, Seed(7)).unwrap()
    }

    #[test]
    fn a_checkpoint_round_trips_with_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = small();
        checkpoint.write(&folder.path().join("one")).unwrap();
        let again = Checkpoint::read(&folder.path().join("one")).unwrap();
        assert_eq!(again, checkpoint);
        again.write(&folder.path().join("two")).unwrap();
        for name in ["config.json", "model.safetensors"] {
            let read = |sub: &str| files::read_bytes(&folder.path().join(sub).join(name)).unwrap();
            assert_eq!(read("one"), read("two"));
        }
    }

    /// The error of reading after `damage` to one of the two files.
    fn error_after(name: &str, damage: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
        let folder = tempfile::tempdir().unwrap();
        small().write(folder.path()).unwrap();
        let path = folder.path().join(name);
        let bytes = files::read_bytes(&path).unwrap();
        files::write_atomic(&path, &damage(bytes)).unwrap();
        let error = Checkpoint::read(folder.path()).unwrap_err();
        format!("{error:#}").replace(&folder.path().display().to_string(), "DIR")
    }

    fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = bytes.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    }

    #[test]
    fn errors_about_damaged_files_name_the_problem() {
        let damages: [fn(Vec<u8>) -> Vec<u8>; 3] = [
            |bytes| bytes[..bytes.len() / 2].to_vec(),
            |_| Vec::new(),
            |bytes| [&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat(),
        ];
        for damage in damages {
            let error = error_after("model.safetensors", damage);
            assert!(error.starts_with("`DIR/model.safetensors`: not a "), "{error}");
        }
        let renamed =
            error_after("model.safetensors", |bytes| replace(&bytes, "model.norm.weight", "model.mron.weight"));
        assert_eq!(renamed, "`DIR/model.safetensors`: array `model.norm.weight` is missing");
        let retyped = error_after("model.safetensors", |bytes| replace(&bytes, "\"F32\"", "\"I32\""));
        assert!(retyped.contains("is of type I32: supported are"), "{retyped}");
        let infinite =
            error_after("model.safetensors", |bytes| [&bytes[..bytes.len() - 4], &f32::NAN.to_le_bytes()].concat());
        assert!(infinite.contains("has the value NaN at index"), "{infinite}");
    }

    #[test]
    fn sizes_are_checked_before_allocation() {
        let vocab = error_after("config.json", |bytes| replace(&bytes, "\"vocab\": 20", "\"vocab\": 21"));
        assert_eq!(
            vocab,
            "`DIR/model.safetensors`: array `model.embed_tokens.weight` has the shape [20, 64], not [21, 64]"
        );
        let heads = error_after("config.json", |bytes| replace(&bytes, "\"kv_heads\": 4", "\"kv_heads\": 3"));
        assert!(heads.contains("`decoder.kv_heads` must divide"), "{heads}");
        let layers = error_after("config.json", |bytes| {
            String::from_utf8(bytes).unwrap().replace("\"layers\": 3", "\"layers\": 99999").into_bytes()
        });
        assert!(layers.contains("layers: at most 10000 are possible"), "{layers}");
        let text = error_after("config.json", |_| b"{}".to_vec());
        assert!(text.starts_with("`DIR/config.json` does not contain the expected JSON"), "{text}");
    }
}
