//! Loads the pixel values of images by key: reads, decodes, processes and caches them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};

use super::pack::ImagePacks;
use super::{decode, exif};
use crate::images::ImageProcessor;
use ablate_core::base::Hash;

/// Capacity of the cache of pixel values, in bytes. Images beyond it are decoded again each time.
const CACHE_BYTES: usize = 1 << 30;

/// The images of a model and its image processor. Usable by several threads.
#[derive(Debug)]
pub struct ImageLoader {
    source: Source,
    processor: ImageProcessor,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
enum Source {
    Packs(ImagePacks),
    /// Paths by key, and whether the EXIF orientation is applied.
    Files(BTreeMap<String, PathBuf>, bool),
}

#[derive(Debug, Default)]
struct Cache {
    sizes: BTreeMap<String, (u32, u32)>,
    pixel_values: BTreeMap<String, Arc<[f32]>>,
    /// Total size of `pixel_values`.
    bytes: usize,
}

impl ImageLoader {
    /// Opens the images of packs.
    pub fn open(packs: &BTreeMap<Hash, PathBuf>, processor: ImageProcessor) -> Result<ImageLoader> {
        Ok(ImageLoader::new(Source::Packs(ImagePacks::open(packs)?), processor))
    }

    /// Uses image files by key; keys must be unique. Without `exif_orientation`, the images are not rotated.
    pub fn from_files(paths: &[(&str, &Path)], exif_orientation: bool, processor: ImageProcessor) -> Result<Self> {
        let mut files = BTreeMap::new();
        for (key, path) in paths {
            if files.insert((*key).to_string(), path.to_path_buf()).is_some() {
                bail!("the image `{key}` is given twice");
            }
        }
        Ok(ImageLoader::new(Source::Files(files, exif_orientation), processor))
    }

    fn new(source: Source, processor: ImageProcessor) -> ImageLoader {
        ImageLoader { source, processor, cache: Mutex::default() }
    }

    pub fn processor(&self) -> &ImageProcessor {
        &self.processor
    }

    /// Width and height of the image, from its header.
    pub fn size(&self, key: &str) -> Result<(u32, u32)> {
        if let Some(size) = self.cache().sizes.get(key) {
            return Ok(*size);
        }
        let size = decode::dimensions(&self.encoded(key)?).with_context(|| format!("the image `{key}`"))?;
        self.cache().sizes.insert(key.to_string(), size);
        Ok(size)
    }

    /// The pixel values of an image, as from [`ImageProcessor::process`].
    pub fn load(&self, key: &str) -> Result<Arc<[f32]>> {
        if let Some(pixel_values) = self.cache().pixel_values.get(key) {
            return Ok(Arc::clone(pixel_values));
        }
        let bytes = self.encoded(key)?;
        let processed = self.processor.decode(&bytes).and_then(|image| self.processor.process(&image));
        let pixel_values: Arc<[f32]> = processed.with_context(|| format!("the image `{key}`"))?.into();
        let mut cache = self.cache();
        let size = size_of_val(&*pixel_values);
        if cache.bytes + size <= CACHE_BYTES
            && cache.pixel_values.insert(key.to_string(), Arc::clone(&pixel_values)).is_none()
        {
            cache.bytes += size;
        }
        Ok(pixel_values)
    }

    /// The encoded file.
    pub fn encoded(&self, key: &str) -> Result<Vec<u8>> {
        match &self.source {
            Source::Packs(packs) => packs.encoded(key),
            Source::Files(paths, exif_orientation) => {
                let path = paths.get(key).ok_or_else(|| anyhow!("there is no image `{key}`"))?;
                let bytes = decode::read_file(path).with_context(|| format!("the image `{key}`"))?;
                Ok(if *exif_orientation { bytes } else { exif::strip(&bytes).into_owned() })
            }
        }
    }

    /// A poisoned lock means that another thread panicked; the cache is consistent after every statement.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::files;

    #[test]
    fn square_values_are_rgb_rows_from_0_to_1() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let pixel = |x, y| image::Rgb([if x == 1 { 255 } else { 0 }, if y == 1 { 255 } else { 0 }, 51]);
        image::RgbImage::from_fn(2, 2, pixel).save(&path).unwrap();
        let images = ImageLoader::from_files(&[("a", &path)], true, ImageProcessor::Square { size: 2 }).unwrap();
        let pixel_values = images.load("a").unwrap();
        let blue = 51.0 / 255.0;
        let expected = [0.0, 0.0, blue, 1.0, 0.0, blue, 0.0, 1.0, blue, 1.0, 1.0, blue];
        let close = |(one, other): (&f32, f32)| (one - other).abs() < 1e-6;
        assert!(pixel_values.iter().zip(expected).all(close), "{pixel_values:?}");
        assert_eq!(pixel_values.len(), 12);
    }

    #[test]
    fn sizes_and_values_are_cached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wide.png");
        image::RgbImage::from_pixel(8, 4, image::Rgb([255; 3])).save(&path).unwrap();
        let images = ImageLoader::from_files(&[("wide", &path)], true, ImageProcessor::Square { size: 4 }).unwrap();
        assert_eq!((images.size("wide").unwrap(), images.processor().shape(8, 4).unwrap().grid), ((8, 4), None));
        let pixel_values = images.load("wide").unwrap();
        let rows: Vec<f32> = pixel_values.chunks(12).map(|row| row.iter().sum::<f32>() / 12.0).collect();
        assert_eq!(rows, [0.0, 1.0, 1.0, 0.0]);
        files::remove_file(&path).unwrap();
        assert_eq!((images.size("wide").unwrap(), images.load("wide").unwrap()), ((8, 4), pixel_values));
        assert_eq!(images.load("tall").unwrap_err().to_string(), "there is no image `tall`");
    }

    #[test]
    fn duplicate_keys_are_an_error() {
        let paths = [("a", Path::new("one.png")), ("a", Path::new("other.png"))];
        let error = ImageLoader::from_files(&paths, true, ImageProcessor::Square { size: 4 }).unwrap_err();
        assert_eq!(error.to_string(), "the image `a` is given twice");
    }
}
