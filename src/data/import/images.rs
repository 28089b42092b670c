//! The images that rows name or contain. Contained ones are unpacked into a folder, so that all images are files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Value, json};

use crate::images::decode::{self, DepthConversion};
use crate::images::exif;
use ablate_core::base::{Hash, files};

/// The key of the value that stands for the bytes of a binary cell. No column has such a name.
pub(super) const STORED: &str = "\0stored";

/// A text of at least this length may be an image in base64; VLMEvalKit has the same limit.
pub(super) const MIN_BASE64: usize = 65;

/// An image as a row states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowImage {
    Path(String),
    /// Contained in the row; `path` is a name that the row also states.
    Unpacked {
        hash: Hash,
        path: Option<String>,
    },
}

/// How members of the image pack are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberNames {
    /// As the row names the image; by content if it has no name.
    Paths,
    /// By content: the first 32 hex digits of the file's hash and the extension of its format.
    Content,
}

/// The images of all rows: where their files are.
pub struct RowImages {
    /// The folder that paths are relative to.
    folder: Option<PathBuf>,
    /// The folder of unpacked images.
    unpacked: PathBuf,
    /// File and content of every unpacked image.
    stored: BTreeMap<Hash, PathBuf>,
    /// Content of files that were hashed.
    hashes: BTreeMap<PathBuf, Hash>,
    /// File of every member.
    members: BTreeMap<String, PathBuf>,
    /// The first failure of the file system.
    failure: Option<anyhow::Error>,
}

impl RowImages {
    /// `folder` is the image folder of the stage; `unpacked` a folder that no one else uses.
    pub fn new(folder: Option<&Path>, unpacked: &Path) -> RowImages {
        RowImages {
            folder: folder.map(Path::to_path_buf),
            unpacked: unpacked.to_path_buf(),
            stored: BTreeMap::new(),
            hashes: BTreeMap::new(),
            members: BTreeMap::new(),
            failure: None,
        }
    }

    /// The file of a member that a row names.
    pub fn file(&self, member: &str) -> &Path {
        self.members.get(member).map_or(Path::new(""), PathBuf::as_path)
    }

    /// Fails if the file system failed since the last call.
    pub(super) fn check(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Unpacks the bytes of a binary cell, and returns the value that stands for them.
    pub(super) fn store(&mut self, bytes: &[u8]) -> Result<Value> {
        Ok(json!({ STORED: self.unpack(bytes)?.to_string() }))
    }

    fn unpack(&mut self, bytes: &[u8]) -> Result<Hash> {
        let hash = Hash::of_bytes(bytes);
        if !self.stored.contains_key(&hash) {
            let path = self.unpacked.join(hash.to_string());
            files::write_unsynced(&path, bytes)?;
            self.stored.insert(hash, path);
        }
        Ok(hash)
    }

    /// Unpacks bytes of a row. A failure of the file system is kept for [`RowImages::check`].
    fn unpacked_image(&mut self, bytes: &[u8], path: Option<String>) -> Result<RowImage, String> {
        match self.unpack(bytes) {
            Ok(hash) => Ok(RowImage::Unpacked { hash, path }),
            Err(error) => {
                let what = error.to_string();
                self.failure.get_or_insert(error);
                Err(what)
            }
        }
    }

    /// Reads the images of a value: a path, a data URL, base64, bytes, an object with `bytes` and `path` as `datasets`
    /// writes it, or a list of them. `key` is its name in errors.
    pub(super) fn read(&mut self, value: &Value, key: &str) -> Result<Vec<RowImage>, String> {
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(values) => {
                let lists = values.iter().map(|value| self.read(value, key)).collect::<Result<Vec<_>, _>>()?;
                Ok(lists.into_iter().flatten().collect())
            }
            Value::String(text) if text.is_empty() => Ok(Vec::new()),
            Value::String(text) => self.read_text(text, key).map(|image| vec![image]),
            Value::Number(number) => Ok(vec![RowImage::Path(number.to_string())]),
            Value::Object(fields) => {
                if let Some(hash) = fields.get(STORED).and_then(Value::as_str) {
                    let hash = hash.parse().ok().filter(|hash| self.stored.contains_key(hash));
                    return Ok(vec![RowImage::Unpacked {
                        hash: hash.ok_or_else(|| format!("`{key}` is not an image"))?,
                        path: None,
                    }]);
                }
                if let Some(unknown) = fields.keys().find(|field| !["bytes", "path"].contains(&field.as_str())) {
                    return Err(format!(
                        "`{key}` has the field `{unknown}`; an image is a path, or an object with `bytes` and `path`"
                    ));
                }
                let path = match fields.get("path") {
                    None | Some(Value::Null) => None,
                    Some(Value::String(path)) => Some(path.clone()),
                    Some(_) => return Err(format!("`{key}.path` is not a text")),
                };
                match fields.get("bytes") {
                    None | Some(Value::Null) => Ok(path.map(RowImage::Path).into_iter().collect()),
                    Some(Value::String(text)) => {
                        let bytes = base64(text).ok_or_else(|| format!("`{key}.bytes` is not base64"))?;
                        Ok(vec![self.unpacked_image(&bytes, path)?])
                    }
                    Some(bytes) => match self.read(bytes, key)?.pop() {
                        Some(RowImage::Unpacked { hash, .. }) => Ok(vec![RowImage::Unpacked { hash, path }]),
                        _ => Err(format!("`{key}.bytes` are not bytes")),
                    },
                }
            }
            Value::Bool(_) => Err(format!("`{key}` is `{value}`, not an image")),
        }
    }

    fn read_text(&mut self, text: &str, key: &str) -> Result<RowImage, String> {
        if let Some(rest) = text.strip_prefix("data:") {
            let Some((_, data)) = rest.split_once(";base64,") else {
                return Err(format!("`{key}` is a data URL without `;base64,`"));
            };
            let bytes = base64(data).ok_or_else(|| format!("`{key}` is a data URL whose data are not base64"))?;
            return self.unpacked_image(&bytes, None);
        }
        for scheme in ["http://", "https://", "s3://", "gs://"] {
            if text.starts_with(scheme) {
                return Err(format!(
                    "the image `{text}` is an address: nothing is downloaded; download the images and name them by path"
                ));
            }
        }
        if text.len() >= MIN_BASE64
            && let Some(bytes) = base64(text)
            && extension(&bytes).is_some()
        {
            return self.unpacked_image(&bytes, None);
        }
        Ok(RowImage::Path(text.strip_prefix("file://").unwrap_or(text).to_string()))
    }

    /// The name of an image in the pack. `base` is the folder of the paths of this file, if the stage has no image
    /// folder.
    pub(super) fn member(
        &mut self,
        image: &RowImage,
        names: MemberNames,
        base: Option<&Path>,
    ) -> Result<String, String> {
        let (file, name) = match image {
            RowImage::Path(path) => self.file_of(path, base)?,
            RowImage::Unpacked { hash, path } => {
                let file = self.stored.get(hash).cloned().unwrap_or_default();
                (file, path.clone().filter(|path| is_relative(path)))
            }
        };
        // Files of two folders may have one name: the writer of the rows may have cut off their folders.
        let is_free = |name: &String| self.members.get(name).is_none_or(|known| *known == file);
        let name = match name.filter(|name| names == MemberNames::Paths && is_free(name)) {
            Some(name) => name,
            None => self.content_name(&file)?,
        };
        self.members.entry(name.clone()).or_insert(file);
        Ok(name)
    }

    /// File and relative name of a path.
    fn file_of(&self, path: &str, base: Option<&Path>) -> Result<(PathBuf, Option<String>), String> {
        let Some(folder) = self.folder.as_deref().or(base) else {
            return Err(format!(
                "the row has the image `{path}`, but the stage has no image folder: set `images = \"…\"` in the stage"
            ));
        };
        let relative = match Path::new(path).strip_prefix(folder) {
            Ok(below) if Path::new(path).is_absolute() => below.to_string_lossy().into_owned(),
            _ => path.strip_prefix("./").unwrap_or(path).to_string(),
        };
        if !is_relative(&relative) {
            return Err(format!("the image `{path}` is not a relative path below the folder `images`"));
        }
        let file = folder.join(&relative);
        if !file.is_file() {
            return Err(format!("the image `{path}` is not in the folder `images` (`{}`)", folder.display()));
        }
        Ok((file, Some(relative)))
    }

    /// The content of a member, for ids.
    pub(super) fn content(&mut self, member: &str) -> Result<Hash, String> {
        let file = self.members.get(member).cloned().unwrap_or_default();
        self.hash(&file)
    }

    fn hash(&mut self, file: &Path) -> Result<Hash, String> {
        if let Some(hash) = self.hashes.get(file) {
            return Ok(*hash);
        }
        let hash = Hash::of_file(file).map_err(|error| format!("{error:#}"))?;
        self.hashes.insert(file.to_path_buf(), hash);
        Ok(hash)
    }

    fn content_name(&mut self, file: &Path) -> Result<String, String> {
        let hash = self.hash(file)?;
        let head = decode::read_head(file).map_err(|error| format!("{error:#}"))?;
        Ok(format!("{}.{}", &hash.to_string()[..32], extension(&head).unwrap_or("bin")))
    }
}

/// Whether a path has no `.`, `..` and empty parts.
fn is_relative(path: &str) -> bool {
    !path.split('/').any(|part| matches!(part, "" | "." | ".."))
}

/// Decodes base64, with or without padding and line breaks.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let joined: String;
    let text = if text.contains(['\n', '\r']) {
        joined = text.split(['\n', '\r']).collect();
        &joined
    } else {
        text
    };
    STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()
}

/// The extension of an image's format, from its first bytes.
fn extension(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpg"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        [b'B', b'M', ..] => Some("bmp"),
        _ => None,
    }
}

/// Reads an image file for packing, and checks that it can be decoded. Without `exif_orientation` the EXIF data are
/// removed, so that no later decoder rotates the image. `image` is its name in errors.
pub fn read_image(image: &str, file: &Path, exif_orientation: bool) -> Result<Vec<u8>> {
    let read = || -> Result<Vec<u8>> {
        let bytes = decode::read_file(file)?;
        let bytes = if exif_orientation { bytes } else { exif::strip(&bytes).into_owned() };
        decode::decode(&bytes, DepthConversion::Nearest)?;
        Ok(bytes)
    };
    read().with_context(|| format!("the image `{image}`"))
}
