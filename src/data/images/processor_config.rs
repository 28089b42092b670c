//! Reads the image processor of a Hugging Face checkpoint folder.
//!
//! transformers 5 stores it as `image_processor` in `processor_config.json`; a separate processor and all earlier
//! versions use `preprocessor_config.json`. A missing or null field has the default of its processor class, as in
//! transformers 5.24. An unknown field that is not in [`IGNORED_FIELDS`] is an error, because it might change pixel
//! values.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

use super::anyres::Anyres;
use super::processor::{HubProcessor, ImageProcessor, ResizeTarget};
use super::resize::Filter;
use ablate_core::base::files;

/// The file of transformers 5, with the field `image_processor`.
const NESTED: &str = "processor_config.json";
/// The file of a separate processor.
const PLAIN: &str = "preprocessor_config.json";

/// Maximum number of tiles, without the whole image.
const MAX_TILES: u64 = 64;
/// Maximum number of pixels of all tiles of an image.
const MAX_PIXELS: u64 = 1 << 25;
/// Maximum number of resolutions.
const MAX_RESOLUTIONS: usize = 1024;

/// Fields that do not change pixel values.
const IGNORED_FIELDS: &[&str] = &[
    "_valid_processor_keys",
    "aspect_ratio_setting",
    "data_format",
    "device",
    "disable_grouping",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "processor_class",
    "return_tensors",
];

/// Fields that are read.
const KNOWN_FIELDS: &[&str] = &[
    "crop_size",
    "default_to_square",
    "do_center_crop",
    "do_convert_rgb",
    "do_normalize",
    "do_pad",
    "do_rescale",
    "do_resize",
    "image_grid_pinpoints",
    "image_mean",
    "image_std",
    "pad_size",
    "resample",
    "rescale_factor",
    "size",
    "use_square_size",
];

const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];
/// LLaVA-NeXT's default resolutions (height, width).
const DEFAULT_RESOLUTIONS: [(u32, u32); 5] = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Clip,
    Siglip,
    Llava,
    LlavaNext,
}

impl ImageProcessor {
    /// Reads the processor of a checkpoint. Errors name the file and the field.
    pub fn read(folder: &Path) -> Result<ImageProcessor> {
        let nested = folder.join(NESTED);
        if nested.is_file() {
            let mut whole: Map<String, Value> = files::read_json(&nested)?;
            if let Some(inner) = whole.remove("image_processor") {
                let context = || format!("`{}`: `image_processor`", nested.display());
                let Value::Object(inner) = inner else { return Err(anyhow!("is not an object")).with_context(context) };
                return steps(&inner).map(ImageProcessor::Hub).with_context(context);
            }
        }
        let plain = folder.join(PLAIN);
        if !plain.is_file() {
            let folder = folder.display();
            bail!("`{folder}` has no image processor: found neither `{PLAIN}` nor `image_processor` in `{NESTED}`");
        }
        steps(&files::read_json(&plain)?).map(ImageProcessor::Hub).with_context(|| format!("`{}`", plain.display()))
    }
}

fn steps(map: &Map<String, Value>) -> Result<HubProcessor> {
    let kind = kind(map)?;
    let fields = Fields(map);
    if let Some(name) =
        map.keys().find(|name| !KNOWN_FIELDS.contains(&name.as_str()) && !IGNORED_FIELDS.contains(&name.as_str()))
    {
        bail!("`{name}` is not a known field");
    }
    for (name, wanted) in [("do_convert_rgb", true), ("default_to_square", false), ("use_square_size", false)] {
        if fields.flag(name, wanted)? != wanted {
            bail!("`{name}` is {}, which is not supported", !wanted);
        }
    }
    if fields.get("pad_size").is_some() {
        bail!("`pad_size` is not supported");
    }
    let siglip = kind == Kind::Siglip;
    let size = fields.size("size")?.unwrap_or(match kind {
        Kind::Siglip => ResizeTarget::Exact { height: 224, width: 224 },
        _ => ResizeTarget::Shortest(224),
    });
    let crop_size = match fields.size("crop_size")? {
        // Here a single number means a square.
        Some(ResizeTarget::Shortest(side)) if !map["crop_size"].is_object() => Some((side, side)),
        Some(ResizeTarget::Exact { height, width }) => Some((height, width)),
        Some(ResizeTarget::Shortest(_)) => bail!("`crop_size` is not a height and a width"),
        None => (!siglip).then_some((224, 224)),
    };
    let resize = fields.flag("do_resize", true)?;
    let crop = fields.flag("do_center_crop", !siglip)?;
    let pads = fields.flag("do_pad", kind == Kind::LlavaNext)?;
    let mean = fields.colour("image_mean")?.unwrap_or(if siglip { [0.5; 3] } else { CLIP_MEAN });
    let deviation = fields.colour("image_std")?.unwrap_or(if siglip { [0.5; 3] } else { CLIP_STD });
    if deviation.iter().any(|&value| value as f32 <= 0.0) {
        bail!("`image_std` holds a number that is not above 0");
    }
    let scale = fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0);
    if scale <= 0.0 {
        bail!("`rescale_factor` is {scale}, not above 0");
    }
    let anyres = match kind {
        Kind::LlavaNext => Some(anyres(&fields, size, crop_size)?),
        _ if fields.get("image_grid_pinpoints").is_some() => {
            bail!("`image_grid_pinpoints` is only supported for LLaVA-NeXT")
        }
        _ => None,
    };
    let pad = if kind == Kind::Llava && pads { Some(pad_colour(mean)?) } else { None };
    let square = pad.is_some() || anyres.is_some();
    let side = match (crop.then_some(crop_size), resize.then_some(size)) {
        (Some(None), _) => bail!("`do_center_crop` is true, but `crop_size` is missing"),
        (Some(Some((height, width))), _) if height == width => height,
        (Some(Some((height, width))), _) => bail!("`crop_size` is {height} x {width}, which is not square"),
        (None, Some(ResizeTarget::Exact { height, width })) if height == width => height,
        (None, Some(ResizeTarget::Exact { height, width })) => {
            bail!("`size` is {height} x {width}, which is not square")
        }
        (None, Some(ResizeTarget::Shortest(side))) if square => side,
        (None, Some(ResizeTarget::Shortest(_))) => bail!("`do_center_crop` is false: images would not be square"),
        (None, None) => bail!("`do_resize` and `do_center_crop` are false: images would have any size"),
    };
    if let Some(anyres) = &anyres {
        check_resolutions(anyres, side)?;
    }
    let normal = fields.flag("do_normalize", true)?;
    Ok(HubProcessor {
        anyres,
        pad,
        resize: resize.then_some(size),
        filter: filter(&fields)?,
        crop,
        scale: fields.flag("do_rescale", true)?.then_some(scale),
        normal: normal.then(|| (mean.map(|value| value as f32), deviation.map(|value| value as f32))),
        side,
    })
}

/// The processor class that wrote the file, of any backend and version.
fn kind(map: &Map<String, Value>) -> Result<Kind> {
    let field = if map.get("image_processor_type").is_some_and(|value| !value.is_null()) {
        "image_processor_type"
    } else {
        "feature_extractor_type"
    };
    let named = map.get(field).ok_or_else(|| anyhow!("missing `image_processor_type`"))?;
    let name = named.as_str().ok_or_else(|| anyhow!("`{field}` is not a string"))?;
    let plain = name.replace("FeatureExtractor", "ImageProcessor");
    let plain = plain.strip_suffix("Fast").or(plain.strip_suffix("Pil")).unwrap_or(&plain);
    match plain {
        "CLIPImageProcessor" => Ok(Kind::Clip),
        "SiglipImageProcessor" => Ok(Kind::Siglip),
        "LlavaImageProcessor" => Ok(Kind::Llava),
        "LlavaNextImageProcessor" => Ok(Kind::LlavaNext),
        _ => bail!("`{field}` is `{name}`, which is not supported"),
    }
}

fn filter(fields: &Fields) -> Result<Filter> {
    let Some(value) = fields.get("resample") else { return Ok(Filter::Bicubic) };
    match value.as_u64() {
        Some(0) => Ok(Filter::Nearest),
        Some(1) => Ok(Filter::Lanczos),
        Some(2) => Ok(Filter::Bilinear),
        Some(3) => Ok(Filter::Bicubic),
        Some(4) => bail!("`resample` is 4 (box), which is not supported"),
        Some(5) => bail!("`resample` is 5 (Hamming), which is not supported"),
        _ => bail!("`resample` is {value}, not a Pillow filter number from 0 to 5"),
    }
}

/// `tuple(int(x * 255) for x in image_mean)`.
fn pad_colour(mean: [f64; 3]) -> Result<[u8; 3]> {
    let colour = mean.map(|value| (value * 255.0).trunc());
    if colour.iter().any(|value| !(0.0..=255.0).contains(value)) {
        bail!("`image_mean` is not a colour for padding: its values must be from 0 to 1");
    }
    Ok(colour.map(|value| value as u8))
}

fn anyres(fields: &Fields, size: ResizeTarget, crop_size: Option<(u32, u32)>) -> Result<Anyres> {
    let whole = match size {
        ResizeTarget::Exact { height, width } => (height, width),
        ResizeTarget::Shortest(side) => (side, side),
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

/// Maximum side of an image or tile in pixels.
const MAX_SIDE: u64 = 4096;

/// A side's length in pixels, from 1 to [`MAX_SIDE`].
fn side(value: &Value) -> Option<u32> {
    value.as_u64().filter(|side| (1..=MAX_SIDE).contains(side)).map(|side| side as u32)
}

/// Typed access to the settings. Null counts as missing.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| anyhow!("`{name}` is {value}, not true or false"))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| anyhow!("`{name}` is {value}, not a number"))
    }

    fn colour(&self, name: &str) -> Result<Option<[f64; 3]>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        let three = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
        let fits = three.filter(|three| three.iter().all(|&value| (value as f32).is_finite()));
        fits.map(Some).ok_or_else(|| anyhow!("`{name}` is not three numbers, for red, green and blue"))
    }

    /// A number, a list of height and width, or an object with `shortest_edge` or with `height` and `width`.
    fn size(&self, name: &str) -> Result<Option<ResizeTarget>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let length = |value: &Value| {
            side(value).ok_or_else(|| anyhow!("`{name}` holds {value}, not a length from 1 to {MAX_SIDE}"))
        };
        let exact = |height, width| Ok(ResizeTarget::Exact { height: length(height)?, width: length(width)? });
        let size: Result<ResizeTarget> = match value {
            Value::Number(_) => Ok(ResizeTarget::Shortest(length(value)?)),
            Value::Array(list) if list.len() == 2 => exact(&list[0], &list[1]),
            Value::Object(map) => {
                let keys: Vec<&str> = map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| &**key).collect();
                match keys.as_slice() {
                    ["shortest_edge"] => Ok(ResizeTarget::Shortest(length(&map["shortest_edge"])?)),
                    ["height", "width"] | ["width", "height"] => exact(&map["height"], &map["width"]),
                    _ => bail!(
                        "`{name}` has the keys {keys:?}: only `shortest_edge`, or `height` and `width`, are supported"
                    ),
                }
            }
            _ => bail!("`{name}` is neither a number nor an object"),
        };
        size.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn size_or_error(settings: &Value) -> String {
        let folder = tempfile::tempdir().unwrap();
        files::write_atomic(&folder.path().join(PLAIN), settings.to_string().as_bytes()).unwrap();
        match ImageProcessor::read(folder.path()) {
            Ok(processor) => format!("{}", processor.size()),
            Err(error) => format!("{error:#}").replace(&format!("{}/", folder.path().display()), ""),
        }
    }

    fn with(kind: &str, field: &str, value: &Value) -> String {
        size_or_error(&json!({"image_processor_type": kind, field: value})).replace("`preprocessor_config.json`: ", "")
    }

    #[test]
    fn missing_fields_have_the_defaults_of_the_class() {
        let bare = |kind: &str| size_or_error(&json!({"image_processor_type": kind, "do_resize": null}));
        for kind in ["CLIPImageProcessorFast", "SiglipImageProcessor", "LlavaImageProcessorPil"] {
            assert_eq!(bare(kind), "224", "{kind}");
        }
        // The default resolutions are for tiles of 336, but the default tile size is 224: a file must set one of them.
        assert!(bare("LlavaNextImageProcessor").contains("`image_grid_pinpoints` holds 336 x 672"));
        let old = json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": 24, "crop_size": 20, "resample": 3});
        assert_eq!(size_or_error(&old), "20");
    }

    #[test]
    fn a_nested_processor_takes_precedence() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| files::write_atomic(&folder.path().join(name), text.as_bytes()).unwrap();
        let size = || ImageProcessor::read(folder.path()).map(|processor| processor.size());
        assert!(size().unwrap_err().to_string().contains("has no image processor"));
        write(PLAIN, r#"{"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}}"#);
        write(NESTED, r#"{"processor_class": "LlavaProcessor"}"#);
        assert_eq!(size().unwrap(), 16);
        write(NESTED, r#"{"image_processor": {"image_processor_type": "SiglipImageProcessor"}}"#);
        assert_eq!(size().unwrap(), 224);
        write(NESTED, r#"{"image_processor": []}"#);
        assert!(format!("{:#}", size().unwrap_err()).ends_with("`: `image_processor`: is not an object"));
    }

    #[test]
    fn errors_name_file_and_field() {
        let error = size_or_error(&json!({"image_processor_type": "SiglipImageProcessor", "blur": 2}));
        assert_eq!(error, "`preprocessor_config.json`: `blur` is not a known field");
        assert_eq!(size_or_error(&json!({})), "`preprocessor_config.json`: missing `image_processor_type`");
        let other = with("ViTImageProcessor", "size", &json!(8));
        assert_eq!(other, "`image_processor_type` is `ViTImageProcessor`, which is not supported");
        for (field, value, expected) in [
            ("resample", json!(5), "`resample` is 5 (Hamming), which is not supported"),
            ("resample", json!("bicubic"), "`resample` is \"bicubic\", not a Pillow filter number from 0 to 5"),
            ("do_resize", json!(1), "`do_resize` is 1, not true or false"),
            ("do_convert_rgb", json!(false), "`do_convert_rgb` is false, which is not supported"),
            ("size", json!({"shortest_edge": 0}), "`size` holds 0, not a length from 1 to 4096"),
            ("size", json!({"height": 5, "width": 5000}), "`size` holds 5000, not a length from 1 to 4096"),
            (
                "size",
                json!({"longest_edge": 5}),
                "`size` has the keys [\"longest_edge\"]: only `shortest_edge`, or `height` and `width`, are supported",
            ),
            ("crop_size", json!({"shortest_edge": 5}), "`crop_size` is not a height and a width"),
            ("crop_size", json!({"height": 5, "width": 6}), "`crop_size` is 5 x 6, which is not square"),
            ("do_center_crop", json!(false), "`do_center_crop` is false: images would not be square"),
            ("image_mean", json!([0.5, 0.5]), "`image_mean` is not three numbers, for red, green and blue"),
            ("image_std", json!([0.5, 0, 0.5]), "`image_std` holds a number that is not above 0"),
            ("rescale_factor", json!(0), "`rescale_factor` is 0, not above 0"),
            ("pad_size", json!(5), "`pad_size` is not supported"),
            ("image_grid_pinpoints", json!([[5, 5]]), "`image_grid_pinpoints` is only supported for LLaVA-NeXT"),
        ] {
            assert_eq!(with("CLIPImageProcessor", field, &value), expected);
        }
    }

    #[test]
    fn resolutions_are_multiples_of_the_tile_size() {
        let next = |value: &Value| with("LlavaNextImageProcessor", "image_grid_pinpoints", value);
        assert_eq!(next(&json!([[224, 448], [448, 224]])), "224");
        assert_eq!(next(&json!([])), "`image_grid_pinpoints` has 0 entries, not 1 to 1024");
        let list = "`image_grid_pinpoints` is not a list of heights and widths from 1 to 4096";
        for value in [json!(5), json!([5]), json!([[5]]), json!([[224, 0]]), json!([[224, 4097]]), json!([[224, "a"]])]
        {
            assert_eq!(next(&value), list, "{value}");
        }
        let odd = "`image_grid_pinpoints` holds 224 x 225, which is not a multiple of the tile size of 224 pixels";
        assert_eq!(next(&json!([[224, 224], [224, 225]])), odd);
        let many = "`image_grid_pinpoints` holds 2240 x 2240: 100 tiles of 224 pixels are too many";
        assert_eq!(next(&json!([[2240, 2240]])), many);
    }
}
