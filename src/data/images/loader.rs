//! ImageLoader by key, as the numbers that a model reads: found, decoded, processed, and kept while there is room.
//! Knows no row and no model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};

use super::pack::ImagePacks;
use super::{decode, exif};
use crate::images::ImageProcessor;
use ablate_core::base::Hash;

/// Values that are kept in memory, in bytes. Beyond it images are decoded anew each time.
const KEPT: usize = 1 << 30;

/// ImageLoader and the processor of one model, for any number of threads at a time.
#[derive(Debug)]
pub struct ImageLoader {
    source: Source,
    processor: ImageProcessor,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
enum Source {
    Packs(ImagePacks),
    /// Whether they keep their EXIF data, and with them their orientation.
    Files(BTreeMap<String, PathBuf>, bool),
}

#[derive(Debug, Default)]
struct Kept {
    sizes: BTreeMap<String, (u32, u32)>,
    pixels: BTreeMap<String, Arc<[f32]>>,
    /// Of all `pixels`.
    bytes: usize,
}

impl ImageLoader {
    /// The images of packs.
    pub fn open(packs: &BTreeMap<Hash, PathBuf>, processor: ImageProcessor) -> Result<ImageLoader> {
        Ok(ImageLoader::of(Source::Packs(ImagePacks::open(packs)?), processor))
    }

    /// Image files, each under a key. A key can be given once. Without `exif_orientation` they are not turned as their
    /// EXIF data say.
    pub fn from_files(
        paths: &[(&str, &Path)],
        exif_orientation: bool,
        processor: ImageProcessor,
    ) -> Result<ImageLoader> {
        let mut files = BTreeMap::new();
        for (key, path) in paths {
            if files.insert((*key).to_string(), path.to_path_buf()).is_some() {
                bail!("the image `{key}` is given twice");
            }
        }
        Ok(ImageLoader::of(Source::Files(files, exif_orientation), processor))
    }

    fn of(source: Source, processor: ImageProcessor) -> ImageLoader {
        ImageLoader { source, processor, kept: Mutex::default() }
    }

    pub fn processor(&self) -> &ImageProcessor {
        &self.processor
    }

    /// Width and height of the picture as it was given, from its header.
    pub fn size(&self, key: &str) -> Result<(u32, u32)> {
        if let Some(size) = self.kept().sizes.get(key) {
            return Ok(*size);
        }
        let size = decode::dimensions(&self.encoded(key)?).with_context(|| format!("the image `{key}`"))?;
        self.kept().sizes.insert(key.to_string(), size);
        Ok(size)
    }

    /// The values of [`ImageProcessor::process`].
    pub fn load(&self, key: &str) -> Result<Arc<[f32]>> {
        if let Some(pixels) = self.kept().pixels.get(key) {
            return Ok(Arc::clone(pixels));
        }
        let bytes = self.encoded(key)?;
        let made = self.processor.decode(&bytes).and_then(|image| self.processor.process(&image));
        let pixels: Arc<[f32]> = made.with_context(|| format!("the image `{key}`"))?.into();
        let mut kept = self.kept();
        let size = size_of_val(&*pixels);
        if kept.bytes + size <= KEPT && kept.pixels.insert(key.to_string(), Arc::clone(&pixels)).is_none() {
            kept.bytes += size;
        }
        Ok(pixels)
    }

    /// The file as it was given or packed.
    pub fn encoded(&self, key: &str) -> Result<Vec<u8>> {
        match &self.source {
            Source::Packs(packs) => packs.encoded(key),
            Source::Files(paths, exif_orientation) => {
                let path = paths.get(key).ok_or_else(|| anyhow!("the image `{key}` is not among those given"))?;
                let bytes = decode::read_file(path).with_context(|| format!("the image `{key}`"))?;
                Ok(if *exif_orientation { bytes } else { exif::strip(&bytes).into_owned() })
            }
        }
    }

    /// A poisoned lock means that another thread failed; what is kept is whole after every statement.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::files;

    #[test]
    fn pixels_of_a_model_of_ours_are_rows_of_red_green_blue_from_0_to_1() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let pixel = |x, y| image::Rgb([if x == 1 { 255 } else { 0 }, if y == 1 { 255 } else { 0 }, 51]);
        image::RgbImage::from_fn(2, 2, pixel).save(&path).unwrap();
        let images = ImageLoader::from_files(&[("a", &path)], true, ImageProcessor::Square { size: 2 }).unwrap();
        let pixels = images.load("a").unwrap();
        let blue = 51.0 / 255.0;
        let expected = [0.0, 0.0, blue, 1.0, 0.0, blue, 0.0, 1.0, blue, 1.0, 1.0, blue];
        assert!(pixels.iter().zip(expected).all(|(one, other): (&f32, f32)| (one - other).abs() < 1e-6), "{pixels:?}");
        assert_eq!(pixels.len(), 12);
    }

    #[test]
    fn a_file_is_read_once_and_measured_by_its_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wide.png");
        image::RgbImage::from_pixel(8, 4, image::Rgb([255; 3])).save(&path).unwrap();
        let images = ImageLoader::from_files(&[("wide", &path)], true, ImageProcessor::Square { size: 4 }).unwrap();
        assert_eq!((images.size("wide").unwrap(), images.processor().grid(8, 4)), ((8, 4), None));
        let pixels = images.load("wide").unwrap();
        let rows: Vec<f32> = pixels.chunks(12).map(|row| row.iter().sum::<f32>() / 12.0).collect();
        assert_eq!(rows, [0.0, 1.0, 1.0, 0.0]);
        files::remove_file(&path).unwrap();
        assert_eq!((images.size("wide").unwrap(), images.load("wide").unwrap()), ((8, 4), pixels));
        assert_eq!(images.load("tall").unwrap_err().to_string(), "the image `tall` is not among those given");
    }

    #[test]
    fn a_key_names_one_file() {
        let paths = [("a", Path::new("one.png")), ("a", Path::new("other.png"))];
        let error = ImageLoader::from_files(&paths, true, ImageProcessor::Square { size: 4 }).unwrap_err();
        assert_eq!(error.to_string(), "the image `a` is given twice");
    }
}
