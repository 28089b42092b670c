//! CLIP, SigLIP, LLaVA 1.5 and LLaVA-NeXT: tiles are squares of one size. LLaVA-NeXT also splits an image ([`Anyres`]).

use anyhow::{Result, anyhow, bail};
use image::{Rgb, RgbImage, imageops};
use serde_json::Value;

use crate::images::anyres::Anyres;
use crate::images::processor_fields::{Fields, MAX_SIDE, SizeField, side};
use crate::images::resize::{Filter, Region, resize};
use crate::images::shape::ImageShape;

/// Maximum number of pixels of an image padded to a square.
const MAX_PADDED: u64 = 1 << 26;
/// Maximum number of tiles, without the whole image.
const MAX_TILES: u64 = 64;
/// Maximum number of pixels of all tiles of an image.
const MAX_PIXELS: u64 = 1 << 25;
/// Maximum number of resolutions.
const MAX_RESOLUTIONS: usize = 1024;
/// LLaVA-NeXT's default resolutions (height, width).
const DEFAULT_RESOLUTIONS: [(u32, u32); 5] = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];

/// The processor class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::images) enum Class {
    Clip,
    Siglip,
    Llava,
    LlavaNext,
}

/// The steps before the values are scaled, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::images) struct Square {
    /// Split the image; each tile goes through the other steps.
    anyres: Option<Anyres>,
    /// Pad to a square with this colour (LLaVA).
    pad: Option<[u8; 3]>,
    resize: Option<SizeField>,
    filter: Filter,
    /// Crop a square of `side` from the centre; a smaller image gets a black border.
    crop: bool,
    /// Height and width of a tile of the result.
    side: u32,
}

impl Square {
    /// Reads the fields of a class. `mean` is the colour of padding.
    pub(in crate::images) fn read(fields: &Fields, kind: Class, mean: [f64; 3]) -> Result<Square> {
        for name in ["default_to_square", "use_square_size"] {
            if fields.flag(name, false)? {
                bail!("`{name}` is true, which is not supported");
            }
        }
        if fields.get("pad_size").is_some() {
            bail!("`pad_size` is not supported");
        }
        let siglip = kind == Class::Siglip;
        let size = fields.size("size")?.unwrap_or(match kind {
            Class::Siglip => SizeField::Exact { height: 224, width: 224 },
            _ => SizeField::Shortest(224),
        });
        let crop_size = match fields.size("crop_size")? {
            // Here a single number means a square.
            Some(SizeField::Shortest(side)) if !fields.get("crop_size").is_some_and(Value::is_object) => {
                Some((side, side))
            }
            Some(SizeField::Exact { height, width }) => Some((height, width)),
            Some(SizeField::Shortest(_)) => bail!("`crop_size` is not a height and a width"),
            None => (!siglip).then_some((224, 224)),
        };
        let resize = fields.flag("do_resize", true)?;
        let crop = fields.flag("do_center_crop", !siglip)?;
        if crop {
            fields.refuse_null(&["crop_size"])?;
        }
        let pads = fields.flag("do_pad", kind == Class::LlavaNext)?;
        let anyres = match kind {
            Class::LlavaNext => Some(anyres(fields, size, crop_size)?),
            _ if fields.get("image_grid_pinpoints").is_some() => {
                bail!("`image_grid_pinpoints` is only supported for LLaVA-NeXT")
            }
            _ => None,
        };
        let pad = if kind == Class::Llava && pads { Some(pad_colour(mean)?) } else { None };
        let square = pad.is_some() || anyres.is_some();
        let side = match (crop.then_some(crop_size), resize.then_some(size)) {
            (Some(None), _) => bail!("`do_center_crop` is true, but `crop_size` is missing"),
            (Some(Some((height, width))), _) if height == width => height,
            (Some(Some((height, width))), _) => bail!("`crop_size` is {height} x {width}, which is not square"),
            (None, Some(SizeField::Exact { height, width })) if height == width => height,
            (None, Some(SizeField::Exact { height, width })) => {
                bail!("`size` is {height} x {width}, which is not square")
            }
            (None, Some(SizeField::Shortest(side))) if square => side,
            (None, Some(SizeField::Shortest(_))) => bail!("`do_center_crop` is false: images would not be square"),
            (None, None) => bail!("`do_resize` and `do_center_crop` are false: images would have any size"),
        };
        if let Some(anyres) = &anyres {
            check_resolutions(anyres, side)?;
        }
        Ok(Square { anyres, pad, resize: resize.then_some(size), filter: fields.filter(Filter::Bicubic)?, crop, side })
    }

    /// Possible resolutions (height, width) of split images; none if images are not split.
    pub(in crate::images) fn resolutions(&self) -> Option<&[(u32, u32)]> {
        self.anyres.as_ref().map(|anyres| anyres.resolutions.as_slice())
    }

    pub(in crate::images) fn shape(&self, width: u32, height: u32) -> ImageShape {
        match &self.anyres {
            None => ImageShape::single(width, height, self.side),
            Some(anyres) => ImageShape::tiled(width, height, self.side, anyres.grid((width, height))),
        }
    }

    /// The tiles, the whole image first.
    pub(in crate::images) fn tiles(&self, image: &RgbImage) -> Result<Vec<RgbImage>> {
        match &self.anyres {
            Some(anyres) => anyres.split(image, self.filter).iter().map(|tile| self.resize_and_crop(tile)).collect(),
            None => Ok(vec![self.resize_and_crop(image)?]),
        }
    }

    /// Pads, resizes and crops.
    fn resize_and_crop(&self, image: &RgbImage) -> Result<RgbImage> {
        let padded = self.pad.map(|colour| pad_to_square(image, colour)).transpose()?;
        let image = padded.as_ref().unwrap_or(image);
        let size = self.resize.map_or(image.dimensions(), |target| target.apply(image.dimensions()));
        if !self.crop {
            return Ok(resize(image, size, &Region::whole(size), self.filter));
        }
        let (columns, left) = center_crop(size.0, self.side);
        let (rows, top) = center_crop(size.1, self.side);
        let cut = resize(image, size, &Region { columns, rows }, self.filter);
        if cut.dimensions() == (self.side, self.side) {
            return Ok(cut);
        }
        let mut square = RgbImage::new(self.side, self.side);
        imageops::replace(&mut square, &cut, i64::from(left), i64::from(top));
        Ok(square)
    }
}

impl SizeField {
    /// Width and height after resizing (`get_resize_output_image_size`).
    fn apply(self, (width, height): (u32, u32)) -> (u32, u32) {
        let shorter = width.min(height);
        let scaled = |size: u32, length: u32| (f64::from(size) * f64::from(length) / f64::from(shorter)) as u32;
        match self {
            SizeField::Exact { height, width } => (width, height),
            SizeField::Shortest(size) if width <= height => (size, scaled(size, height)),
            SizeField::Shortest(size) => (scaled(size, width), size),
        }
    }
}

/// The range of pixels in a centred crop of a side, and the offset of the range in the crop.
fn center_crop(length: u32, crop: u32) -> (std::ops::Range<u32>, u32) {
    if length < crop {
        return (0..length, (crop - length).div_ceil(2));
    }
    let start = (length - crop) / 2;
    (start..start + crop, 0)
}

/// Pads an image to a square, centred (`pad_to_square`).
fn pad_to_square(image: &RgbImage, colour: [u8; 3]) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    let side = width.max(height);
    if u64::from(side) * u64::from(side) > MAX_PADDED {
        bail!("would have {side} x {side} pixels after padding to a square; at most {MAX_PADDED} are allowed");
    }
    let mut square = RgbImage::from_pixel(side, side, Rgb(colour));
    imageops::replace(&mut square, image, i64::from((side - width) / 2), i64::from((side - height) / 2));
    Ok(square)
}

/// `tuple(int(x * 255) for x in image_mean)`.
fn pad_colour(mean: [f64; 3]) -> Result<[u8; 3]> {
    let colour = mean.map(|value| (value * 255.0).trunc());
    if colour.iter().any(|value| !(0.0..=255.0).contains(value)) {
        bail!("`image_mean` is not a colour for padding: its values must be from 0 to 1");
    }
    Ok(colour.map(|value| value as u8))
}

fn anyres(fields: &Fields, size: SizeField, crop_size: Option<(u32, u32)>) -> Result<Anyres> {
    let whole = match size {
        SizeField::Exact { height, width } => (height, width),
        SizeField::Shortest(side) => (side, side),
    };
    let resolutions = match fields.get("image_grid_pinpoints") {
        None => DEFAULT_RESOLUTIONS.to_vec(),
        Some(value) => resolutions(value).ok_or_else(|| {
            anyhow!("`image_grid_pinpoints` is not a list of heights and widths from 1 to {MAX_SIDE}")
        })?,
    };
    if resolutions.is_empty() || resolutions.len() > MAX_RESOLUTIONS {
        bail!("`image_grid_pinpoints` has {} entries, not 1 to {MAX_RESOLUTIONS}", resolutions.len());
    }
    Ok(Anyres { resolutions, side: crop_size.map_or(whole.0, |(height, _)| height), whole })
}

fn resolutions(value: &Value) -> Option<Vec<(u32, u32)>> {
    let pair = |entry: &Value| match entry.as_array()?.as_slice() {
        [height, width] => Some((side(height)?, side(width)?)),
        _ => None,
    };
    value.as_array()?.iter().map(pair).collect()
}

/// Checks that every resolution consists of whole tiles of the size that the tower takes, and not of too many.
fn check_resolutions(anyres: &Anyres, side: u32) -> Result<()> {
    if anyres.side != side {
        bail!("`crop_size` makes tiles of {} pixels, but the result has {side}: both must be equal", anyres.side);
    }
    for &(height, width) in &anyres.resolutions {
        if height % side != 0 || width % side != 0 {
            bail!(
                "`image_grid_pinpoints` holds {height} x {width}, which is not a multiple of the tile size of {side} pixels"
            );
        }
        let count = u64::from(height / side) * u64::from(width / side);
        if count > MAX_TILES || (count + 1) * u64::from(side) * u64::from(side) > MAX_PIXELS {
            bail!("`image_grid_pinpoints` holds {height} x {width}: {count} tiles of {side} pixels are too many");
        }
    }
    Ok(())
}
