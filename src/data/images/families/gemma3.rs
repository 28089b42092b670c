//! Gemma 3: an image is stretched to one square tile. With pan and scan, parts of a long image follow as tiles of their own. Follows
//! the Pillow backend of `Gemma3ImageProcessor` and `Gemma3Processor` of transformers 5.24.

use std::path::Path;

use anyhow::{Result, bail};
use image::{RgbImage, imageops};

use super::markup;
use crate::image_text::ImageText;
use crate::images::processor_fields::Fields;
use crate::images::resize::{Filter, Region, resize};
use crate::images::shape::ImageShape;

/// Fields of the image processor that only this family has.
pub(in crate::images) const FIELDS: &[&str] = &[
    "crop_size",
    "default_to_square",
    "do_center_crop",
    "do_pad",
    "do_pan_and_scan",
    "pad_size",
    "pan_and_scan_max_num_crops",
    "pan_and_scan_min_crop_size",
    "pan_and_scan_min_ratio_to_activate",
    "resample",
    "size",
];

/// Maximum number of parts of an image.
const MAX_PARTS: u32 = 64;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::images) struct Stretched {
    /// Height and width of a tile.
    side: u32,
    filter: Filter,
    pan_and_scan: Option<PanAndScan>,
    /// `image_seq_length`: image tokens of a tile.
    tokens: usize,
    /// The tokens before and after a tile.
    start: String,
    end: String,
}

/// The parts of images whose sides differ much.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PanAndScan {
    /// The shortest side of a part, in pixels.
    least_side: u32,
    most_parts: u32,
    /// The longer side by the shorter one.
    least_ratio: f64,
}

/// The token that stands for an image in a chat template; in the conversation it stands before the image tokens.
pub(crate) fn placeholder(folder: &Path) -> Result<String> {
    let [start, _] = image_ends(folder)?;
    Ok(start)
}

fn image_ends(folder: &Path) -> Result<[String; 2]> {
    markup::special_tokens(folder, [("boi_token", "<start_of_image>"), ("eoi_token", "<end_of_image>")])
}

impl Stretched {
    pub(in crate::images) fn read(fields: &Fields, folder: &Path) -> Result<Stretched> {
        fields.refuse_steps(&["do_center_crop", "do_pad"], &["crop_size", "pad_size"])?;
        if !fields.flag("do_resize", true)? {
            bail!("`do_resize` is false, which is not supported");
        }
        fields.flag("default_to_square", true)?;
        let side = fields.square("size", 224)?;
        let scans = fields.flag("do_pan_and_scan", false)?;
        if scans {
            fields.refuse_null(&[
                "pan_and_scan_min_crop_size",
                "pan_and_scan_max_num_crops",
                "pan_and_scan_min_ratio_to_activate",
            ])?;
        }
        let pan_and_scan = PanAndScan {
            least_side: fields.count("pan_and_scan_min_crop_size", 256, 1 << 20)?,
            most_parts: fields.count("pan_and_scan_max_num_crops", 4, MAX_PARTS)?,
            least_ratio: fields.number("pan_and_scan_min_ratio_to_activate")?.unwrap_or(1.2),
        };
        let [start, end] = image_ends(folder)?;
        Ok(Stretched {
            side,
            filter: fields.filter(Filter::Bilinear)?,
            pan_and_scan: scans.then_some(pan_and_scan),
            tokens: markup::token_count(folder, "image_seq_length", 256)?,
            start,
            end,
        })
    }

    pub(in crate::images) fn shape(&self, width: u32, height: u32) -> Result<ImageShape> {
        Ok(match self.grid(width, height)? {
            None => ImageShape::single(width, height, self.side),
            Some(grid) => ImageShape::tiled(width, height, self.side, grid),
        })
    }

    /// Rows and columns of the parts, of which one is 1; none if the image is not cut.
    fn grid(&self, width: u32, height: u32) -> Result<Option<(u32, u32)>> {
        let Some(PanAndScan { least_side, most_parts, least_ratio }) = self.pan_and_scan else { return Ok(None) };
        let (long, short) = (width.max(height), width.min(height));
        let ratio = f64::from(long) / f64::from(short);
        if ratio < least_ratio {
            return Ok(None);
        }
        // As in transformers: at least two parts, unless fewer are allowed.
        let parts = ((ratio + 0.5).floor() as u32).min(long / least_side).max(2).min(most_parts);
        let part = long.div_ceil(parts);
        if part.min(short) < least_side {
            return Ok(None);
        }
        if (parts - 1) * part >= long {
            bail!(
                "would be cut into {parts} parts of {part} pixels for its {width} x {height} pixels, the last without a pixel"
            );
        }
        Ok(Some(if width >= height { (1, parts) } else { (parts, 1) }))
    }

    /// The whole image, and then its parts.
    pub(in crate::images) fn tiles(&self, image: &RgbImage) -> Result<Vec<RgbImage>> {
        let (width, height) = image.dimensions();
        let square = (self.side, self.side);
        let stretch = |image: &RgbImage| resize(image, square, &Region::whole(square), self.filter);
        let mut tiles = vec![stretch(image)];
        if let Some((rows, columns)) = self.grid(width, height)? {
            let (part_width, part_height) = (width.div_ceil(columns), height.div_ceil(rows));
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let (x, y) = (column * part_width, row * part_height);
                // The last part can be smaller.
                tiles.push(stretch(&imageops::crop_imm(image, x, y, part_width, part_height).to_image()));
            }
        }
        Ok(tiles)
    }

    pub(in crate::images) fn text(&self, shape: ImageShape, features: usize) -> Result<ImageText> {
        let (tiles, tokens) = (shape.tiles as usize, self.tokens);
        markup::check_tokens("image_seq_length", tokens, shape, features)?;
        let (start, end) = (format!("\n\n{}", self.start), format!("{}\n\n", self.end));
        if tiles == 1 {
            return Ok(ImageText { runs: vec![(start, tokens)], end });
        }
        let mut runs = vec![(format!("Here is the original image {start}"), tokens)];
        for part in 1..tiles {
            let between = if part == 1 { "and here are some crops to help you see better " } else { "" };
            runs.push((format!("{end} {between}{start}"), tokens));
        }
        Ok(ImageText { runs, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_images_are_cut_along_their_longer_side() {
        let pan_and_scan = Some(PanAndScan { least_side: 16, most_parts: 4, least_ratio: 1.2 });
        let (start, end) = ("<a>".to_string(), "<b>".to_string());
        let steps = Stretched { side: 8, filter: Filter::Bilinear, pan_and_scan, tokens: 2, start, end };
        let grid = |width, height| steps.grid(width, height).unwrap();
        assert_eq!([grid(40, 40), grid(40, 34)], [None, None]);
        assert_eq!([grid(40, 32), grid(32, 40)], [Some((1, 2)), Some((2, 1))]);
        // 3.5 times as wide: four parts, of which 16 pixels each are needed.
        assert_eq!([grid(70, 20), grid(56, 16), grid(52, 15)], [Some((1, 4)), Some((1, 3)), None]);
        assert_eq!(grid(900, 20), Some((1, 4)));
        let shape = steps.shape(32, 40).unwrap();
        assert_eq!((shape.tiles, shape.tile), (3, (8, 8)));
        let text = steps.text(shape, 6).unwrap();
        let expected = "Here is the original image \n\n<a>I<b>\n\n and here are some crops to help you see better \n\n<a>I<b>\n\n \
                        \n\n<a>I<b>\n\n";
        assert_eq!(text.with_runs_as("I"), expected);
        assert_eq!(steps.text(steps.shape(9, 9).unwrap(), 2).unwrap().with_runs_as("I"), "\n\n<a>I<b>\n\n");
        assert!(steps.text(shape, 2).is_err());
    }

    #[test]
    fn the_last_part_can_be_smaller() {
        let pan_and_scan = Some(PanAndScan { least_side: 1, most_parts: 3, least_ratio: 1.0 });
        let (start, end) = (String::new(), String::new());
        let steps = Stretched { side: 2, filter: Filter::Nearest, pan_and_scan, tokens: 1, start, end };
        let image = RgbImage::from_fn(7, 2, |x, _| image::Rgb([x as u8, 0, 0]));
        let tiles = steps.tiles(&image).unwrap();
        let row = |tile: &RgbImage| tile.pixels().take(2).map(|pixel| pixel.0[0]).collect::<Vec<u8>>();
        assert_eq!(tiles.iter().map(row).collect::<Vec<_>>(), [[1, 5], [0, 2], [3, 5], [6, 6]]);
        // As many parts as an image of nine columns cannot have.
        let steps =
            Stretched { pan_and_scan: pan_and_scan.map(|steps| PanAndScan { most_parts: 4, ..steps }), ..steps };
        let error = steps.shape(9, 2).unwrap_err().to_string();
        assert_eq!(error, "would be cut into 4 parts of 3 pixels for its 9 x 2 pixels, the last without a pixel");
        assert!(steps.tiles(&RgbImage::new(9, 2)).is_err());
    }
}
