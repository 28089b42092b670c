//! The image processor of Qwen2-VL and Qwen2.5-VL: an image keeps its aspect ratio, and is resized to whole cells of
//! `merge_size` x `merge_size` patches whose number of pixels lies within bounds (Wang et al. 2024). Follows
//! `image_processing_pil_qwen2_vl.py` of transformers 5.24.

use anyhow::{Context, Result, bail};
use image::RgbImage;
use serde_json::Value;

use crate::images::processor_fields::Fields;
use crate::images::resize::{Filter, Region, resize};
use crate::images::shape::ImageShape;

/// Fields of the image processor that this family has. Some of its classes write the names of settings that they do not have.
pub(in crate::images) const FIELDS: &[&str] = &[
    "crop_size",
    "default_to_square",
    "do_center_crop",
    "do_pad",
    "max_pixels",
    "merge_size",
    "min_pixels",
    "pad_size",
    "patch_size",
    "resample",
    "size",
    "temporal_patch_size",
];

/// The largest ratio of the longer to the shorter side.
const MAX_RATIO: u32 = 200;
/// The most pixels of a resized image.
const MAX_PIXELS: u64 = 1 << 26;

/// How images are resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::images) struct Cells {
    /// None: an image keeps its size, which must be whole cells.
    bounds: Option<Bounds>,
    filter: Filter,
    patches: PatchSizes,
}

/// The patches that an image is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchSizes {
    /// Height and width of a patch in pixels.
    pub patch: u32,
    /// Patches along a side of a cell, which becomes one feature.
    pub merge: u32,
    /// How often an image is repeated in time.
    pub frames: u32,
}

/// The fewest and the most pixels of a resized image, above 0. An image whose sides would be shorter than a cell has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    min: u64,
    max: u64,
}

impl Cells {
    pub(in crate::images) fn read(fields: &Fields) -> Result<Cells> {
        fields.refuse_steps(&["do_center_crop", "do_pad"], &["crop_size", "pad_size"])?;
        fields.refuse_null(&["patch_size", "merge_size", "temporal_patch_size"])?;
        let patches = PatchSizes {
            patch: fields.count("patch_size", 14, 256)?,
            merge: fields.count("merge_size", 2, 64)?,
            frames: fields.count("temporal_patch_size", 2, 64)?,
        };
        let bounds = if fields.flag("do_resize", true)? { Some(bounds(fields)?) } else { None };
        Ok(Cells { bounds, filter: fields.filter(Filter::Bicubic)?, patches })
    }

    pub(in crate::images) fn patches(&self) -> PatchSizes {
        self.patches
    }

    pub(in crate::images) fn shape(&self, width: u32, height: u32) -> Result<ImageShape> {
        let (across, down) = self.resized((width, height))?;
        Ok(ImageShape { width, height, grid: None, tiles: 1, tile: (down, across) })
    }

    /// The resized image.
    pub(in crate::images) fn tile(&self, image: &RgbImage) -> Result<RgbImage> {
        let size = self.resized(image.dimensions())?;
        Ok(resize(image, size, &Region::whole(size), self.filter))
    }

    fn resized(&self, (width, height): (u32, u32)) -> Result<(u32, u32)> {
        let cell = self.patches.patch * self.patches.merge;
        match self.bounds {
            Some(bounds) => bounds.resize((width, height), cell),
            None if width.is_multiple_of(cell) && height.is_multiple_of(cell) => Ok((width, height)),
            None => bail!("has {width} x {height} pixels: without `do_resize`, both must be multiples of {cell}"),
        }
    }
}

/// `size`, whose numbers `min_pixels` and `max_pixels` replace.
fn bounds(fields: &Fields) -> Result<Bounds> {
    let (mut least, mut most) = match fields.get("size") {
        None => (Some(Value::from(56 * 56)), Some(Value::from(28 * 28 * 1280))),
        Some(Value::Object(size)) => {
            let replaced = |key: &str| key == "min_pixels" || key == "max_pixels";
            let known = |key: &str| key == "shortest_edge" || key == "longest_edge" || replaced(key);
            if let Some((key, value)) = size.iter().find(|(key, value)| !known(key) && !value.is_null()) {
                bail!("`size` holds {value} as `{key}`: only `shortest_edge` and `longest_edge` are supported");
            }
            let number = |key: &str| size.get(key).filter(|value| !value.is_null()).cloned();
            (number("shortest_edge"), number("longest_edge"))
        }
        Some(value) => bail!("`size` is {value}, not an object with `shortest_edge` and `longest_edge`"),
    };
    for (name, bound) in [("min_pixels", &mut least), ("max_pixels", &mut most)] {
        if let Some(value) = fields.get(name) {
            *bound = Some(value.clone());
        }
    }
    let number = |bound: Option<Value>, name: &str, key: &str| {
        let value = bound.with_context(|| format!("`{key}` of `size` is missing, and so is `{name}`"))?;
        let number = value.as_u64().filter(|pixels| *pixels > 0);
        number.with_context(|| format!("`{name}`, or `{key}` of `size`, is {value}, not a number of pixels above 0"))
    };
    let (min, max) = (number(least, "min_pixels", "shortest_edge")?, number(most, "max_pixels", "longest_edge")?);
    if max < min {
        bail!("`max_pixels`, or `longest_edge` of `size`, is {max}, below `min_pixels` ({min})");
    }
    Ok(Bounds { min, max })
}

impl Bounds {
    /// Width and height after resizing to whole cells of `cell` x `cell` pixels (`smart_resize`).
    ///
    /// # Errors
    /// An image that is more than 200 times as long as it is wide, or that would have too many pixels.
    fn resize(self, (width, height): (u32, u32), cell: u32) -> Result<(u32, u32)> {
        let (longer, shorter) = (width.max(height), width.min(height));
        if u64::from(longer) > u64::from(MAX_RATIO) * u64::from(shorter) {
            bail!("has {width} x {height} pixels: the longer side may be at most {MAX_RATIO} times the shorter one");
        }
        let cell = f64::from(cell);
        let cells = [width, height].map(|side| (f64::from(side) / cell).round_ties_even());
        let pixels = cells[0] * cells[1] * cell * cell;
        let area = f64::from(width) * f64::from(height);
        let cells = if pixels > self.max as f64 {
            let shrink = (area / self.max as f64).sqrt();
            [width, height].map(|side| (f64::from(side) / shrink / cell).floor().max(1.0))
        } else if pixels < self.min as f64 {
            let grow = (self.min as f64 / area).sqrt();
            [width, height].map(|side| (f64::from(side) * grow / cell).ceil())
        } else {
            cells
        };
        let [width, height] = cells.map(|count| count * cell);
        if width * height > MAX_PIXELS as f64 {
            bail!("would have {width} x {height} pixels after resizing: at most {MAX_PIXELS} are allowed");
        }
        Ok((width as u32, height as u32))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::tests::support::golden;
    use ablate_core::base::files;

    #[derive(Deserialize)]
    struct Case {
        cell: u32,
        min_pixels: u64,
        max_pixels: u64,
        /// Width and height before and after.
        sizes: Vec<[u32; 4]>,
    }

    #[test]
    fn sizes_equal_those_of_transformers() {
        let cases: Vec<Case> = files::read_json(&golden("pixels/smart_resize.json")).unwrap();
        let mut compared = 0;
        for Case { cell, min_pixels, max_pixels, sizes } in cases {
            let bounds = Bounds { min: min_pixels, max: max_pixels };
            for [width, height, to_width, to_height] in sizes {
                let size = bounds.resize((width, height), cell).unwrap();
                assert_eq!(size, (to_width, to_height), "{width} x {height} with {bounds:?}");
                compared += 1;
            }
        }
        assert!(compared > 500, "{compared}");
    }

    #[test]
    fn sizes_that_are_too_long_or_too_large_are_refused() {
        let bounds = Bounds { min: 3136, max: 1 << 30 };
        assert!(bounds.resize((200, 1), 28).is_ok());
        let error = |size| bounds.resize(size, 28).unwrap_err().to_string();
        let long = "has 201 x 1 pixels: the longer side may be at most 200 times the shorter one";
        assert_eq!(error((201, 1)), long);
        assert!(error((16_384, 16_384)).starts_with("would have 16380 x 16380 pixels after resizing"));
    }

    fn read(settings: &Value) -> Result<Cells> {
        Cells::read(&Fields(settings.as_object().unwrap()))
    }

    #[test]
    fn bounds_are_those_of_size_unless_pixels_are_given() {
        let bounds = |settings: &Value| read(settings).unwrap().bounds.map(|Bounds { min, max }| (min, max));
        assert_eq!(bounds(&json!({})), Some((3136, 1_003_520)));
        let size = json!({"shortest_edge": 100, "longest_edge": 900});
        assert_eq!(bounds(&json!({"size": size})), Some((100, 900)));
        assert_eq!(bounds(&json!({"size": size, "max_pixels": 500, "min_pixels": null})), Some((100, 500)));
        // As transformers 4.45 wrote it.
        let old = json!({"min_pixels": 7, "max_pixels": 9, "size": {"min_pixels": 7, "max_pixels": 9}});
        assert_eq!(bounds(&old), Some((7, 9)));
        assert_eq!(bounds(&json!({"do_resize": false})), None);
    }

    #[test]
    fn wrong_settings_are_named() {
        let error = |settings: Value| format!("{:#}", read(&settings).unwrap_err());
        let missing = "`longest_edge` of `size` is missing, and so is `max_pixels`";
        assert_eq!(error(json!({"size": {"shortest_edge": 100}})), missing);
        let zero = "`min_pixels`, or `shortest_edge` of `size`, is 0, not a number of pixels above 0";
        assert_eq!(error(json!({"min_pixels": 0})), zero);
        let below = "`max_pixels`, or `longest_edge` of `size`, is 5, below `min_pixels` (3136)";
        assert_eq!(error(json!({"max_pixels": 5})), below);
        let other = "`size` holds 5 as `height`: only `shortest_edge` and `longest_edge` are supported";
        assert_eq!(error(json!({"size": {"height": 5, "width": 5}})), other);
        assert_eq!(error(json!({"size": 5})), "`size` is 5, not an object with `shortest_edge` and `longest_edge`");
        assert_eq!(error(json!({"patch_size": 0})), "`patch_size` is 0, not from 1 to 256");
        assert_eq!(error(json!({"do_pad": true})), "`do_pad` is true, which is not supported");
        let unresized = read(&json!({"do_resize": false})).unwrap();
        assert_eq!(unresized.shape(56, 28).unwrap().tile, (28, 56));
        let partial = "has 56 x 29 pixels: without `do_resize`, both must be multiples of 28";
        assert_eq!(unresized.shape(56, 29).unwrap_err().to_string(), partial);
    }
}
