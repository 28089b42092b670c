//! Processor files and chat templates of published models (`tests/golden/published`).

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::conversation::Conversation;
use crate::images::{ImageProcessor, PatchSizes};
use crate::tests::support::golden;
use ablate_core::base::files;

fn folder(model: &str) -> PathBuf {
    golden("published").join(model)
}

#[test]
fn published_image_processors_are_read() {
    // Model, size of an image, features of a tile; grid and tokens.
    let cases = [
        ("smolvlm-256m-instruct", (1920, 1080), 64, Some((3, 4)), 13 * 64),
        ("smolvlm-256m-instruct", (300, 300), 64, Some((4, 4)), 17 * 64),
        ("smolvlm2-500m-video-instruct", (100, 2000), 64, Some((4, 1)), 5 * 64),
        ("smolvlm-instruct", (1920, 1080), 81, Some((3, 4)), 13 * 81),
        ("idefics3-8b-llama3", (640, 480), 169, Some((3, 4)), 13 * 169),
        ("internvl3-1b-hf", (1920, 1080), 256, Some((2, 4)), 9 * 256),
        ("internvl3-1b-hf", (300, 300), 256, None, 256),
        ("gemma-3-4b-it", (1920, 1080), 256, None, 256),
        ("gemma-3-27b-it", (30, 3000), 256, None, 256),
    ];
    for (model, (width, height), features, grid, tokens) in cases {
        let processor = ImageProcessor::read(&folder(model)).unwrap();
        let shape = processor.shape(width, height).unwrap();
        assert_eq!(shape.grid, grid, "{model} {width} x {height}");
        let text = processor.text(shape, shape.tiles as usize * features).unwrap();
        assert_eq!(text.tokens(), tokens, "{model} {width} x {height}");
    }
}

#[test]
fn published_processors_for_images_of_any_size_are_read() {
    for model in ["qwen2-vl-2b-instruct", "qwen2-vl-7b-instruct", "qwen2.5-vl-3b-instruct", "qwen2.5-vl-7b-instruct"] {
        let processor = ImageProcessor::read(&folder(model)).unwrap();
        assert_eq!(processor.patches(), Some(PatchSizes { patch: 14, merge: 2, frames: 2 }), "{model}");
        let tile = |width, height| processor.shape(width, height).unwrap().tile;
        assert_eq!(
            [tile(1920, 1080), tile(300, 301), tile(9, 9), tile(8000, 60)],
            [(1092, 1932), (308, 308), (56, 56), (56, 8008)],
            "{model}"
        );
    }
}

#[test]
fn published_processors_of_qwen3_vl_are_read() {
    for model in ["qwen3-vl-2b-instruct", "qwen3-vl-4b-instruct", "qwen3-vl-8b-instruct"] {
        let processor = ImageProcessor::read(&folder(model)).unwrap();
        assert_eq!(processor.patches(), Some(PatchSizes { patch: 16, merge: 2, frames: 2 }), "{model}");
        let tile = |width, height| processor.shape(width, height).unwrap().tile;
        // An image has at least 65,536 pixels.
        assert_eq!(
            [tile(1920, 1080), tile(300, 301), tile(9, 9), tile(8000, 60)],
            [(1088, 1920), (288, 288), (256, 256), (64, 8000)],
            "{model}"
        );
    }
}

#[test]
fn settings_that_a_fast_processor_does_not_use_are_accepted() {
    // As transformers 4.57 saves the fast processor of Idefics3.
    let unused = json!({ "crop_size": null, "data_format": "channels_first", "default_to_square": true, "device": null,
        "disable_grouping": null, "do_center_crop": null, "input_data_format": null, "pad_size": null,
        "return_row_col_info": true, "return_tensors": null });
    let (from, copy) = (folder("smolvlm-256m-instruct"), tempfile::tempdir().unwrap());
    let mut settings: Map<String, Value> = files::read_json(&from.join("preprocessor_config.json")).unwrap();
    settings.extend(unused.as_object().unwrap().clone());
    let read = |settings: &Map<String, Value>| {
        files::write_json(&copy.path().join("preprocessor_config.json"), settings).unwrap();
        ImageProcessor::read(copy.path()).map_err(|error| format!("{error:#}"))
    };
    files::copy(&from.join("processor_config.json"), &copy.path().join("processor_config.json")).unwrap();
    assert_eq!(read(&settings).unwrap(), ImageProcessor::read(&from).unwrap());
    settings.insert("do_center_crop".to_string(), json!(true));
    assert!(read(&settings).unwrap_err().ends_with("`do_center_crop` is true, which is not supported"));
}

#[test]
fn published_chat_templates_are_understood() {
    for (_, path, _) in files::entries(&golden("published")).unwrap() {
        if !path.is_dir() {
            continue;
        }
        // The tokenizer is not read.
        let copy = tempfile::tempdir().unwrap();
        files::write_atomic(&copy.path().join("tokenizer.json"), b"{}").unwrap();
        for file in files::list_paths(&path).unwrap() {
            files::copy(&file, &copy.path().join(files::name_of(&file))).unwrap();
        }
        assert_eq!(Conversation::check_files(copy.path(), false).unwrap(), [""; 0], "{}", path.display());
    }
}
