//! Packs of encoded images: deterministic tar files whose members are read by key.
//!
//! A row names an image by its key, `<first 16 hex digits of the pack's hash>/<member name>`. So rows of different
//! packs can be mixed, and the image of a row never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::decode::MAX_FILE;
use ablate_core::base::{Hash, files};

/// Writes a tar whose bytes depend only on the members; time, owner and mode of the files are not stored.
pub struct PackWriter {
    path: PathBuf,
    tar: tar::Builder<BufWriter<File>>,
    names: BTreeSet<String>,
}

impl PackWriter {
    pub fn create(path: &Path) -> Result<PackWriter> {
        let tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, files::create(path)?));
        Ok(PackWriter { path: path.to_path_buf(), tar, names: BTreeSet::new() })
    }

    /// Adds an encoded image under a relative name, which must be unique.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        if !self.names.insert(name.to_string()) {
            bail!("the image `{name}` is in the pack twice");
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        self.tar
            .append_data(&mut header, name, bytes)
            .with_context(|| format!("cannot write `{name}` into `{}`", self.path.display()))
    }

    /// Closes the pack. Its hash is the beginning of its members' keys.
    pub fn finish(self) -> Result<Hash> {
        let context = || format!("cannot write `{}`", self.path.display());
        let buffer = self.tar.into_inner().with_context(context)?;
        buffer.into_inner().map_err(|error| anyhow!("{}", error.error())).with_context(context)?;
        Hash::of_file(&self.path)
    }
}

/// The key of a member of a pack.
pub fn image_key(pack: Hash, name: &str) -> String {
    format!("{}/{name}", &pack.to_string()[..16])
}

/// Packs that are open for reading by several threads.
#[derive(Debug)]
pub struct ImagePacks {
    packs: Vec<(PathBuf, File)>,
    members: BTreeMap<String, Member>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    pack: usize,
    offset: u64,
    size: usize,
}

impl ImagePacks {
    /// Reads the tables of contents. Images are read on demand.
    pub fn open(paths: &BTreeMap<Hash, PathBuf>) -> Result<ImagePacks> {
        let mut packs = Vec::new();
        let mut members = BTreeMap::new();
        for (pack, (hash, path)) in paths.iter().enumerate() {
            let context = || format!("cannot read the image pack `{}`", path.display());
            let file = files::open(path)?.into_inner();
            let length = file.metadata().with_context(context)?.len();
            let mut archive = tar::Archive::new(files::open(path)?);
            for entry in archive.entries_with_seek().with_context(context)? {
                let entry = entry.with_context(context)?;
                let Some((name, member)) = member(&entry, pack, length).with_context(context)? else { continue };
                if members.insert(image_key(*hash, &name), member).is_some() {
                    return Err(anyhow!("it has two members `{name}`")).with_context(context);
                }
            }
            packs.push((path.clone(), file));
        }
        Ok(ImagePacks { packs, members })
    }

    /// The keys of all images in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.members.contains_key(key)
    }

    /// The encoded file (PNG or JPEG).
    pub fn encoded(&self, key: &str) -> Result<Vec<u8>> {
        let member = self.members.get(key).ok_or_else(|| match self.packs.len() {
            0 => anyhow!("the image `{key}` is missing: the inputs have no image pack"),
            count => anyhow!("the image `{key}` is missing in the {count} image packs of the inputs"),
        })?;
        let (path, file) = &self.packs[member.pack];
        let mut bytes = vec![0; member.size];
        file.read_exact_at(&mut bytes, member.offset)
            .with_context(|| format!("cannot read the image `{key}` in `{}`", path.display()))?;
        Ok(bytes)
    }
}

/// A member of a pack file of `length` bytes; `None` for a folder.
fn member<R: Read>(entry: &tar::Entry<R>, pack: usize, length: u64) -> Result<Option<(String, Member)>> {
    let name =
        String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| anyhow!("a member's name is not UTF-8"))?;
    match entry.header().entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous => {}
        tar::EntryType::Directory => return Ok(None),
        _ => bail!("its member `{name}` is not a regular file; links cannot be packed"),
    }
    let (offset, size) = (entry.raw_file_position(), entry.size());
    if offset.checked_add(size).is_none_or(|end| end > length) {
        bail!("its member `{name}` ends after the end of the file: the pack is truncated or damaged");
    }
    if size > MAX_FILE {
        bail!("its member `{name}` is larger than {} MiB", MAX_FILE >> 20);
    }
    Ok(Some((name, Member { pack, offset, size: size as usize })))
}

fn check_name(name: &str) -> Result<()> {
    let valid = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !name.split('/').all(valid) || name.contains('\0') {
        bail!("`{name}` is not a valid image name: use a relative path without `.` and `..`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_fn(width, height, |x, y| Rgb(pixel(x, y))).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn pack(folder: &Path, members: &[(&str, Vec<u8>)]) -> (Hash, ImagePacks) {
        let path = folder.join("images.tar");
        let mut writer = PackWriter::create(&path).unwrap();
        for (name, bytes) in members {
            writer.add(name, bytes).unwrap();
        }
        let hash = writer.finish().unwrap();
        (hash, ImagePacks::open(&BTreeMap::from([(hash, path)])).unwrap())
    }

    #[test]
    fn packed_images_are_read_by_key() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("deep/{}.png", "x".repeat(150));
        let members =
            [("a.png", png(1, 1, |_, _| [1, 2, 3])), (long.as_str(), png(2, 1, |_, _| [9; 3])), ("empty", vec![])];
        let (hash, packs) = pack(folder.path(), &members);
        for (name, bytes) in &members {
            assert_eq!(&packs.encoded(&image_key(hash, name)).unwrap(), bytes);
        }
        assert_eq!(packs.keys().count(), 3);
        let error = packs.encoded("0123456789abcdef/b.png").unwrap_err().to_string();
        assert_eq!(error, "the image `0123456789abcdef/b.png` is missing in the 1 image packs of the inputs");
    }

    #[test]
    fn pack_bytes_depend_only_on_members() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let members = [("a.png", png(1, 1, |_, _| [1, 2, 3]))];
        assert_eq!(pack(one.path(), &members).0, pack(other.path(), &members).0);
        let (empty, packs) = pack(one.path(), &[]);
        assert_ne!(empty, pack(other.path(), &members).0);
        assert_eq!(packs.keys().count(), 0);
    }

    #[test]
    fn an_inconsistent_pack_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.tar");
        let read = |tar: tar::Builder<Vec<u8>>| {
            files::write_atomic(&path, &tar.into_inner().unwrap()).unwrap();
            let packs = ImagePacks::open(&BTreeMap::from([(Hash::of_bytes(b"x"), path.clone())]));
            match packs {
                Ok(packs) => packs.keys().collect::<Vec<_>>().join(" "),
                Err(error) => format!("{error:#}").replace(&path.display().to_string(), "images.tar"),
            }
        };
        let header = |size: u64, kind: tar::EntryType| {
            let mut header = tar::Header::new_gnu();
            header.set_path("a.png").unwrap();
            header.set_size(size);
            header.set_entry_type(kind);
            header.set_cksum();
            header
        };
        let cases = [
            vec![header(3, tar::EntryType::Regular)],
            vec![header(1 << 20, tar::EntryType::Regular)],
            vec![header(u64::MAX / 2, tar::EntryType::Regular)],
            vec![header(3, tar::EntryType::Regular), header(3, tar::EntryType::Regular)],
            vec![header(0, tar::EntryType::Symlink)],
            vec![header(0, tar::EntryType::Directory)],
        ];
        let results = cases.map(|headers| {
            let mut tar = tar::Builder::new(Vec::new());
            for header in headers {
                tar.append(&header, if header.size().unwrap() == 0 { &b""[..] } else { &b"png"[..] }).unwrap();
            }
            read(tar)
        });
        expect_test::expect![[r#"
            3ae7d805f6789a64/a.png
            cannot read the image pack `images.tar`: its member `a.png` ends after the end of the file: the pack is truncated or damaged
            cannot read the image pack `images.tar`: its member `a.png` ends after the end of the file: the pack is truncated or damaged
            cannot read the image pack `images.tar`: it has two members `a.png`
            cannot read the image pack `images.tar`: its member `a.png` is not a regular file; links cannot be packed
        "#]]
        .assert_eq(&results.join("\n"));
    }

    #[test]
    fn invalid_member_names_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = PackWriter::create(&folder.path().join("images.tar")).unwrap();
        for name in ["/etc/passwd", "../a.png", "a//b.png", "", "./a.png"] {
            assert!(writer.add(name, b"").is_err(), "{name}");
        }
        writer.add("a.png", b"").unwrap();
        assert_eq!(writer.add("a.png", b"").unwrap_err().to_string(), "the image `a.png` is in the pack twice");
    }
}
