//! The weights of a hub folder: `model.safetensors`, or its shards by `model.safetensors.index.json`. Knows no model.
//!
//! Arrays are read one at a time at their place in the file. No file is mapped into memory: one that is cut while we
//! read is an error then, where a map would end the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use safetensors::tensor;
use serde::Deserialize;

use super::header::{self, Opened};
use super::number::Dtype;
use ablate_core::base::files;

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// How much of a file is read at once.
const PIECE: usize = 1 << 20;

/// The arrays of a folder. Holds its files open.
pub struct Folder {
    shards: Vec<Shard>,
    arrays: BTreeMap<String, Place>,
    /// Texts that the files hold beside the arrays.
    pub(crate) metadata: BTreeMap<String, String>,
}

struct Shard {
    path: PathBuf,
    file: File,
}

/// Where an array lies.
struct Place {
    shard: usize,
    dtype: tensor::Dtype,
    shape: Vec<usize>,
    /// Of its first byte, from the file's start.
    offset: u64,
    bytes: usize,
}

/// What we need of the index.
#[derive(Deserialize)]
struct Index {
    /// File names by array.
    weight_map: BTreeMap<String, String>,
}

impl Folder {
    /// Opens a model's folder and checks the headers of its files, not the arrays.
    pub fn open(folder: &Path) -> Result<Folder> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() {
            return Folder::open_file(&single);
        }
        if index.exists() {
            return Folder::open_shards(folder, &index);
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
    pub fn open_file(path: &Path) -> Result<Folder> {
        let mut opened = Folder { shards: Vec::new(), arrays: BTreeMap::new(), metadata: BTreeMap::new() };
        opened.add(path)?;
        Ok(opened)
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Folder> {
        let Index { weight_map } = files::read_json(index)?;
        let context = || format!("`{}`", index.display());
        let mut opened = Folder { shards: Vec::new(), arrays: BTreeMap::new(), metadata: BTreeMap::new() };
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            // A name and nothing else: no way out of the folder.
            if Path::new(name).file_name().is_none_or(|last| last != name.as_str()) {
                return Err(anyhow!("the file `{name}` lies outside the folder")).with_context(context);
            }
            let path = folder.join(name);
            if !path.exists() {
                return Err(anyhow!("the shard `{name}` is missing")).with_context(context);
            }
            opened.add(&path)?;
        }
        for (array, name) in &weight_map {
            let place = opened.arrays.get(array).map(|place| files::name_of(&opened.shards[place.shard].path));
            if place.as_ref() != Some(name) {
                return Err(anyhow!("array `{array}` is not in `{name}`")).with_context(context);
            }
        }
        if let Some(array) = opened.arrays.keys().find(|array| !weight_map.contains_key(*array)) {
            return Err(anyhow!("array `{array}` lies in a shard but is not listed")).with_context(context);
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
            let place = Place { shard, dtype, shape, offset: start + from as u64, bytes: to - from };
            if let Some(other) = self.arrays.get(&name) {
                let other = files::name_of(&self.shards[other.shard].path);
                bail!("`{}`: array `{name}` lies in `{other}` too", path.display());
            }
            self.arrays.insert(name, place);
        }
        Ok(())
    }

    /// The arrays' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// The shape of an array.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.place(name)?.shape)
    }

    /// What an array's numbers are stored as; an error for a type that is no weight's.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        let place = self.place(name)?;
        match place.dtype {
            tensor::Dtype::F32 => Ok(Dtype::F32),
            tensor::Dtype::F16 => Ok(Dtype::F16),
            tensor::Dtype::BF16 => Ok(Dtype::BF16),
            other => bail!("{} is of type {other}: supported are F32, F16 and BF16", self.told(place, name)),
        }
    }

    /// Whether an array is there with this shape, without reading it.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let place = self.place(name)?;
        if place.shape != shape {
            bail!("{} has the shape {:?}, not {shape:?}", self.told(place, name), place.shape);
        }
        Ok(())
    }

    /// Reads an array of this shape. A number that is not finite is an error.
    pub fn array(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.check(name, shape)?;
        let place = self.place(name)?;
        let dtype = self.dtype(name)?;
        // As long as the file says, and the file is that long: its header was checked.
        let mut values = Vec::with_capacity(place.bytes / dtype.bytes());
        let mut piece = vec![0; PIECE.min(place.bytes)];
        let mut done = 0;
        while done < place.bytes {
            let piece = &mut piece[..PIECE.min(place.bytes - done)];
            self.shards[place.shard]
                .file
                .read_exact_at(piece, place.offset + done as u64)
                .with_context(|| format!("cannot read {}", self.told(place, name)))?;
            dtype.decode(piece, &mut values);
            done += piece.len();
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            bail!("{} holds {} at place {at}", self.told(place, name), values[at]);
        }
        Ok(values)
    }

    /// Refuses an array that is not `known`.
    pub fn refuse_strangers(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        match self.arrays.iter().find(|(name, _)| !known(name)) {
            Some((name, place)) => bail!("{} belongs to no parameter of this model", self.told(place, name)),
            None => Ok(()),
        }
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.arrays.get(name).with_context(|| {
            let files: Vec<String> = self.shards.iter().map(|shard| format!("`{}`", shard.path.display())).collect();
            match files.as_slice() {
                [] => format!("array `{name}` is missing: there is no file"),
                [file] => format!("{file}: array `{name}` is missing"),
                [first, ..] => format!("{first} and the other {} shards: array `{name}` is missing", files.len() - 1),
            }
        })
    }

    /// The start of a sentence about an array.
    fn told(&self, place: &Place, name: &str) -> String {
        format!("`{}`: array `{name}`", self.shards[place.shard].path.display())
    }
}
