//! Reads the image processor of a Hugging Face checkpoint folder.
//!
//! transformers 5 stores it as `image_processor` in `processor_config.json`; a separate processor and all earlier
//! versions use `preprocessor_config.json`. A missing field has the default of its processor class, as in
//! transformers 5.24. Null is false for a flag. An unknown field that is not in [`IGNORED_FIELDS`] is an error, because it might change pixel
//! values.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

use super::families::{gemma3, idefics3, internvl, llava, qwen2_vl};
use super::processor::{Geometry, HubProcessor, ImageProcessor};
use super::processor_fields::Fields;
use ablate_core::base::files;

/// The file of transformers 5, with the field `image_processor`.
const NESTED: &str = "processor_config.json";
/// The file of a separate processor.
const PLAIN: &str = "preprocessor_config.json";

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
    // Of a video.
    "video_sampling",
];

/// Fields that a class reads.
const SQUARE_FIELDS: &[&str] = &[
    "crop_size",
    "default_to_square",
    "do_center_crop",
    "do_pad",
    "image_grid_pinpoints",
    "pad_size",
    "resample",
    "size",
    "use_square_size",
];

/// Fields that all classes read.
const COMMON_FIELDS: &[&str] =
    &["do_convert_rgb", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std", "rescale_factor"];

const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];
/// A processor class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Square(llava::Class),
    Gemma3,
    Idefics3,
    InternVl,
    Qwen2Vl,
}

impl Class {
    /// The default of `image_mean` and of `image_std`.
    fn normal(self) -> ([f64; 3], [f64; 3]) {
        match self {
            Class::Square(llava::Class::Siglip) | Class::Gemma3 | Class::Idefics3 => ([0.5; 3], [0.5; 3]),
            Class::Square(_) | Class::InternVl | Class::Qwen2Vl => (CLIP_MEAN, CLIP_STD),
        }
    }

    fn fields(self) -> &'static [&'static str] {
        match self {
            Class::Square(_) => SQUARE_FIELDS,
            Class::Gemma3 => gemma3::FIELDS,
            Class::Idefics3 => idefics3::FIELDS,
            Class::InternVl => internvl::FIELDS,
            Class::Qwen2Vl => qwen2_vl::FIELDS,
        }
    }
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
                return read(folder, &inner).with_context(context);
            }
        }
        let plain = folder.join(PLAIN);
        if !plain.is_file() {
            let folder = folder.display();
            bail!("`{folder}` has no image processor: found neither `{PLAIN}` nor `image_processor` in `{NESTED}`");
        }
        read(folder, &files::read_json(&plain)?).with_context(|| format!("`{}`", plain.display()))
    }
}

/// Reads the settings of a processor, which are those of `folder`.
fn read(folder: &Path, map: &Map<String, Value>) -> Result<ImageProcessor> {
    let class = class(map)?;
    let fields = Fields(map);
    let known = |name: &str| [COMMON_FIELDS, class.fields(), IGNORED_FIELDS].iter().any(|list| list.contains(&name));
    if let Some(name) = map.keys().find(|name| !known(name)) {
        bail!("`{name}` is not a known field");
    }
    // Null in the files of Gemma 3: transformers leaves images as they are, which must be in colour then.
    if fields.get("do_convert_rgb").is_some() && !fields.flag("do_convert_rgb", true)? {
        bail!("`do_convert_rgb` is false, which is not supported");
    }
    let (rescale, normalize) = (fields.flag("do_rescale", true)?, fields.flag("do_normalize", true)?);
    for (step, needs) in [
        (rescale, &["rescale_factor"][..]),
        (normalize, &["image_mean", "image_std"]),
        (fields.flag("do_resize", true)?, &["resample"]),
        // Qwen2-VL has its default then, or other fields.
        (fields.flag("do_resize", true)? && class != Class::Qwen2Vl, &["size"]),
    ] {
        if step {
            fields.refuse_null(needs)?;
        }
    }
    let (default_mean, default_deviation) = class.normal();
    let mean = fields.colour("image_mean")?.unwrap_or(default_mean);
    let deviation = fields.colour("image_std")?.unwrap_or(default_deviation);
    if deviation.iter().any(|&value| value as f32 <= 0.0) {
        bail!("`image_std` holds a number that is not above 0");
    }
    let scale = fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0);
    if scale <= 0.0 {
        bail!("`rescale_factor` is {scale}, not above 0");
    }
    let geometry = match class {
        Class::Square(class) => Geometry::Square(llava::Square::read(&fields, class, mean)?),
        Class::Gemma3 => Geometry::Gemma3(gemma3::Stretched::read(&fields, folder)?),
        Class::Idefics3 => Geometry::Idefics3(idefics3::Splitting::read(&fields, folder)?),
        Class::InternVl => Geometry::InternVl(internvl::NearestGrid::read(&fields, folder)?),
        Class::Qwen2Vl => Geometry::Qwen2Vl(qwen2_vl::Cells::read(&fields)?),
    };
    Ok(ImageProcessor::Hub(HubProcessor {
        geometry,
        scale: rescale.then_some(scale),
        normal: normalize.then(|| (mean.map(|value| value as f32), deviation.map(|value| value as f32))),
    }))
}

/// The processor class that wrote the file, of any backend and version.
fn class(map: &Map<String, Value>) -> Result<Class> {
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
        "CLIPImageProcessor" => Ok(Class::Square(llava::Class::Clip)),
        "SiglipImageProcessor" => Ok(Class::Square(llava::Class::Siglip)),
        "LlavaImageProcessor" => Ok(Class::Square(llava::Class::Llava)),
        "LlavaNextImageProcessor" => Ok(Class::Square(llava::Class::LlavaNext)),
        "Gemma3ImageProcessor" => Ok(Class::Gemma3),
        "GotOcr2ImageProcessor" => Ok(Class::InternVl),
        "Idefics3ImageProcessor" | "SmolVLMImageProcessor" => Ok(Class::Idefics3),
        "Qwen2VLImageProcessor" => Ok(Class::Qwen2Vl),
        _ => bail!("`{field}` is `{name}`, which is not supported"),
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
            Ok(processor) => format!("{}", processor.shape(9, 9).unwrap().tile.0),
            Err(error) => format!("{error:#}").replace(&format!("{}/", folder.path().display()), ""),
        }
    }

    fn with(kind: &str, field: &str, value: &Value) -> String {
        size_or_error(&json!({"image_processor_type": kind, field: value})).replace("`preprocessor_config.json`: ", "")
    }

    #[test]
    fn missing_fields_have_the_defaults_of_the_class() {
        let bare = |kind: &str| size_or_error(&json!({"image_processor_type": kind}));
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
        let size = || ImageProcessor::read(folder.path()).map(|processor| processor.shape(9, 9).unwrap().tile.0);
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
    fn null_is_false_for_a_flag_and_refused_for_what_a_step_needs() {
        let null = |kind: &str, field: &str| with(kind, field, &Value::Null);
        assert_eq!(
            null("CLIPImageProcessor", "do_center_crop"),
            "`do_center_crop` is false: images would not be square"
        );
        assert_eq!(null("Gemma3ImageProcessor", "do_convert_rgb"), "224");
        assert_eq!(null("SiglipImageProcessor", "crop_size"), "224");
        for (kind, field) in [
            ("CLIPImageProcessor", "crop_size"),
            ("CLIPImageProcessor", "image_mean"),
            ("CLIPImageProcessor", "image_std"),
            ("CLIPImageProcessor", "resample"),
            ("CLIPImageProcessor", "rescale_factor"),
            ("CLIPImageProcessor", "size"),
            ("GotOcr2ImageProcessor", "max_patches"),
            ("Idefics3ImageProcessor", "max_image_size"),
            ("Qwen2VLImageProcessor", "merge_size"),
        ] {
            let expected = format!("`{field}` is null: write its value, or remove it for the default");
            assert_eq!(null(kind, field), expected);
        }
        let read = |fields: &Value| read(Path::new("."), fields.as_object().unwrap()).unwrap();
        let siglip =
            |flag: &str, value: &Value| read(&json!({"image_processor_type": "SiglipImageProcessor", flag: value}));
        for flag in ["do_normalize", "do_rescale"] {
            assert_eq!(siglip(flag, &Value::Null), siglip(flag, &json!(false)));
            assert_ne!(siglip(flag, &Value::Null), siglip(flag, &json!(true)));
        }
        let unused = json!({"image_processor_type": "SiglipImageProcessor", "do_normalize": null, "image_mean": null});
        assert_eq!(read(&unused), siglip("do_normalize", &json!(false)));
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
