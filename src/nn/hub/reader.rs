//! Reads the weights of a folder: `model.safetensors`, or the shards of `model.safetensors.index.json`.
//!
//! Arrays are read one at a time. No file is mapped into memory: if a mapped file is truncated while it is read, the
//! process ends with SIGBUS instead of an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use safetensors::tensor;
use serde::Deserialize;

use super::dtype::Dtype;
use super::header::{self, Opened};
use ablate_core::base::files;

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Bytes per read.
const PIECE: usize = 1 << 20;

/// The open files of a folder and their arrays.
pub struct WeightFiles {
    shards: Vec<Shard>,
    arrays: BTreeMap<String, Location>,
    /// `__metadata__` of all files.
    pub(crate) metadata: BTreeMap<String, String>,
}

struct Shard {
    path: PathBuf,
    file: File,
}

/// The location of an array.
struct Location {
    shard: usize,
    dtype: tensor::Dtype,
    shape: Vec<usize>,
    /// From the start of the file.
    offset: u64,
    bytes: usize,
}

/// The part of the index that is used.
#[derive(Deserialize)]
struct Index {
    /// File names by array.
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Opens a model's folder and checks the headers of its files.
    pub fn open(folder: &Path) -> Result<WeightFiles> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() {
            return WeightFiles::open_file(&single);
        }
        if index.exists() {
            return WeightFiles::open_shards(folder, &index);
        }
        let old = files::list_names(folder)?
            .into_iter()
            .find(|name| name.starts_with("pytorch_model") && name.contains(".bin"));
        if let Some(old) = old {
            let advice = "convert it to safetensors (`save_pretrained` of transformers does)";
            bail!("`{}` has `{old}` but no `{SINGLE}`: {advice}", folder.display());
        }
        bail!("`{}` has neither `{SINGLE}` nor `{INDEX}`", folder.display());
    }

    /// Opens a single file.
    pub fn open_file(path: &Path) -> Result<WeightFiles> {
        let mut opened = WeightFiles { shards: Vec::new(), arrays: BTreeMap::new(), metadata: BTreeMap::new() };
        opened.add(path)?;
        Ok(opened)
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<WeightFiles> {
        let Index { weight_map } = files::read_json(index)?;
        let context = || format!("`{}`", index.display());
        let mut opened = WeightFiles { shards: Vec::new(), arrays: BTreeMap::new(), metadata: BTreeMap::new() };
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            // A plain file name cannot lead out of the folder.
            if Path::new(name).file_name().is_none_or(|last| last != name.as_str()) {
                return Err(anyhow!("the file `{name}` is outside the folder")).with_context(context);
            }
            let path = folder.join(name);
            if !path.exists() {
                return Err(anyhow!("the shard `{name}` is missing")).with_context(context);
            }
            opened.add(&path)?;
        }
        for (array, name) in &weight_map {
            let file = opened.arrays.get(array).map(|array| files::name_of(&opened.shards[array.shard].path));
            if file.as_ref() != Some(name) {
                return Err(anyhow!("array `{array}` is not in `{name}`")).with_context(context);
            }
        }
        if let Some(array) = opened.arrays.keys().find(|array| !weight_map.contains_key(*array)) {
            return Err(anyhow!("array `{array}` is in a shard but not in the index")).with_context(context);
        }
        Ok(opened)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let Opened { file, arrays, metadata, start } = header::open(path)?;
        self.metadata.extend(metadata);
        let shard = self.shards.len();
        self.shards.push(Shard { path: path.to_path_buf(), file });
        for (name, info) in arrays {
            let (from, to) = info.data_offsets;
            let (dtype, shape) = (info.dtype, info.shape);
            let location = Location { shard, dtype, shape, offset: start + from as u64, bytes: to - from };
            if let Some(other) = self.arrays.get(&name) {
                let other = files::name_of(&self.shards[other.shard].path);
                bail!("`{}`: array `{name}` is also in `{other}`", path.display());
            }
            self.arrays.insert(name, location);
        }
        Ok(())
    }

    /// The names of the arrays, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// The shape of an array.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.location(name)?.shape)
    }

    /// The number type of an array; an error for a type that weights do not have.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        let location = self.location(name)?;
        match location.dtype {
            tensor::Dtype::F32 => Ok(Dtype::F32),
            tensor::Dtype::F16 => Ok(Dtype::F16),
            tensor::Dtype::BF16 => Ok(Dtype::BF16),
            other => bail!("{} is of type {other}: supported are F32, F16 and BF16", self.label(location, name)),
        }
    }

    /// Checks that an array exists with this shape, without reading it.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let location = self.location(name)?;
        if location.shape != shape {
            bail!("{} has the shape {:?}, not {shape:?}", self.label(location, name), location.shape);
        }
        Ok(())
    }

    /// Reads an array of this shape. A number that is not finite is an error.
    pub fn array(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.check(name, shape)?;
        let location = self.location(name)?;
        let dtype = self.dtype(name)?;
        // The header was checked: the file has as many bytes as it claims.
        let mut values = Vec::with_capacity(location.bytes / dtype.bytes());
        let mut piece = vec![0; PIECE.min(location.bytes)];
        let mut done = 0;
        while done < location.bytes {
            let piece = &mut piece[..PIECE.min(location.bytes - done)];
            self.shards[location.shard]
                .file
                .read_exact_at(piece, location.offset + done as u64)
                .with_context(|| format!("cannot read {}", self.label(location, name)))?;
            dtype.decode(piece, &mut values);
            done += piece.len();
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            bail!("{} has the value {} at index {at}", self.label(location, name), values[at]);
        }
        Ok(values)
    }

    /// An error if an array is not `known`.
    pub fn refuse_unknown(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        match self.arrays.iter().find(|(name, _)| !known(name)) {
            Some((name, location)) => bail!("{} is not a parameter of this model", self.label(location, name)),
            None => Ok(()),
        }
    }

    fn location(&self, name: &str) -> Result<&Location> {
        self.arrays.get(name).with_context(|| {
            let files: Vec<String> = self.shards.iter().map(|shard| format!("`{}`", shard.path.display())).collect();
            match files.as_slice() {
                [] => format!("array `{name}` is missing: there is no file"),
                [file] => format!("{file}: array `{name}` is missing"),
                [first, ..] => format!("{first} and the other {} shards: array `{name}` is missing", files.len() - 1),
            }
        })
    }

    /// The subject of an error message about an array.
    fn label(&self, location: &Location, name: &str) -> String {
        format!("`{}`: array `{name}`", self.shards[location.shard].path.display())
    }
}
