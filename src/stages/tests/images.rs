//! Images of rows: broken ones, and those with an EXIF orientation.

use std::path::Path;

use serde_json::json;

use super::support::Runner;
use ablate_core::base::files;
use ablate_data::images::ImagePacks;
use ablate_data::images::decode;

fn jpeg(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jpeg");
    files::read_bytes(&folder.join(format!("{name}.jpg"))).unwrap()
}

fn row(id: u32, image: &str) -> String {
    let turns = json!([{ "from": "human", "value": "<image>\nWhat?" }, { "from": "gpt", "value": "a cat" }]);
    json!({ "id": id, "image": image, "conversations": turns }).to_string() + "\n"
}

#[test]
fn broken_images_name_their_first_row() {
    let mut runner = Runner::new();
    let jpeg = jpeg("baseline");
    files::write_atomic(&runner.path("photos/whole.jpg"), &jpeg).unwrap();
    let mut rows = row(0, "whole.jpg");
    for id in 1..13 {
        let name = format!("{id}.jpg");
        files::write_atomic(&runner.path("photos").join(&name), &jpeg[..jpeg.len() / 2]).unwrap();
        rows += &(row(id, &name) + &row(id + 100, &name));
    }
    files::write_atomic(&runner.path("cats.jsonl"), rows.as_bytes()).unwrap();
    let error = runner.fail("cats", "items", &json!({ "path": "cats.jsonl", "images": "photos" }));
    expect_test::expect![[r#"
        cats.jsonl:2: the image `1.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:4: the image `2.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:6: the image `3.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:8: the image `4.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:10: the image `5.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:12: the image `6.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:14: the image `7.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:16: the image `8.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:18: the image `9.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:20: the image `10.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        and 2 more"#]]
    .assert_eq(&error);
}

#[test]
fn exif_orientation_can_be_ignored() {
    let mut runner = Runner::new();
    files::write_atomic(&runner.path("photos/a.jpg"), &jpeg("turned")).unwrap();
    files::write_atomic(&runner.path("cats.jsonl"), row(1, "a.jpg").as_bytes()).unwrap();
    let row = json!({ "id": 1, "image": "a.jpg", "question": "?", "chosen": "a", "rejected": "b" }).to_string();
    files::write_atomic(&runner.path("pairs.jsonl"), row.as_bytes()).unwrap();
    let mut sizes = Vec::new();
    for (kind, path) in [("items", "cats.jsonl"), ("pairs", "pairs.jsonl")] {
        for (name, flag) in [("turned", true), ("stored", false)] {
            let mut table = json!({ "path": path, "images": "photos", "exif_orientation": flag });
            if kind == "pairs" {
                table["dev"] = json!(0.0);
            }
            runner.images.clear();
            runner.run(&format!("{kind}-{name}"), kind, &table).unwrap();
            let packs = ImagePacks::open(&runner.images).unwrap();
            let bytes = packs.encoded(packs.keys().next().unwrap()).unwrap();
            sizes.push(decode::dimensions(&bytes).unwrap());
        }
    }
    assert_eq!(sizes, [(29, 43), (43, 29), (29, 43), (43, 29)]);
}
