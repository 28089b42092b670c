//! Fuzzing of Hugging Face folders: every folder is a model or an error.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use crate::stages::loaded_model::LoadedModel;
use ablate_core::base::files;
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::image_keys::ImageKeys;
use ablate_data::images::ImageLoader;
use ablate_data::records::Exchange;
use ablate_fuzz::{apply_edits, edits, fuzz, print_case};
use ablate_nn::PixelSource;

const PIECES: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "1",
    "3",
    "1e999",
    "4294967296",
    "18446744073709551615",
    "\"\"",
    "\"llama\"",
    "[]",
    "{}",
    "[0]",
    "\"F32\"",
    "\"ü\"",
    ",",
    "\n",
    "<image>",
    "{% for x in range(9999) %}",
    "{{ x }}",
    "{% endfor %}",
];

#[test]
fn any_folder_is_a_model_or_an_error() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hub");
    let image = golden.join("images/tall.png");
    let folder = tempfile::tempdir().unwrap();
    let mut sound: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for (name, path) in files::walk(&golden.join("llava-next")).unwrap() {
        if !name.starts_with("expected") {
            let copy = (folder.path().join(&name), files::read_bytes(&path).unwrap());
            files::write_atomic(&copy.0, &copy.1).unwrap();
            sound.push(copy);
        }
    }
    let images = ImageKeys::Placed(vec!["image".into(), "image".into()]);
    let history = [Exchange { prompt: "<image> or <image>?".into(), response: "Both.".into() }];
    fuzz("hub folder", &(any::<Index>(), edits(PIECES)), |(which, edits)| {
        let (path, bytes) = &sound[which.index(sound.len())];
        files::write_atomic(path, &apply_edits(bytes, &edits)).unwrap();
        let model = LoadedModel::load_folder(folder.path(), |processor| {
            ImageLoader::from_files(&[("image", &image)], true, processor)
        });
        files::write_atomic(path, bytes).unwrap();
        match model {
            Ok(model) => {
                let prompt = ChatPrompt { images: &images, system: None, history: &history, prompt: "What is it?" };
                let sequence = model.chat.encode_sequence(&prompt, "A square.", false, false);
                print_case(&sequence.map(|row| row.tokens.len()).map_err(|error| format!("{error:#}")));
                print_case(
                    &model.images.pixel_values("image").map(|pixels| pixels.values.len()).map_err(|e| e.to_string()),
                );
            }
            Err(error) => print_case(&format!("{error:#}")),
        }
    });
}
