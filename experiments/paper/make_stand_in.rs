//! Makes a folder with the layout of the paper's data and a few made-up rows in each file. With it the studies can be
//! planned:
//!
//! ```console
//! $ cargo run --release --example make-stand-in -- experiments/paper/data
//! ```
//!
//! Its path is the value of `vars.data` in base.toml. To run the studies, replace it by the published files.

#![allow(clippy::disallowed_methods, reason = "the data can be made again, so they need no atomic writes")]

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::{env, fs};

use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

/// Rows of each file.
const ROWS: usize = 4;

const SFT: [&str; 7] = ["aokvqa", "chartqa", "docvqa", "infovqa", "textvqa", "ai2d", "mathvision"];
const BENCH: [&str; 8] = ["aokvqa", "chartqa", "docvqa", "infovqa", "textvqa", "ai2d", "sqa", "mathvista"];
const LETTERS: [&str; 3] = ["aokvqa", "ai2d", "sqa"];

/// Makes the folder that the command line names.
#[allow(dead_code, reason = "the tests include this file and call `make`")]
fn main() -> Result<()> {
    let folder = env::args().nth(1).ok_or_else(|| Error::other("usage: make-stand-in FOLDER"))?;
    make(Path::new(&folder))
}

/// Makes all files below `root`.
pub(crate) fn make(root: &Path) -> Result<()> {
    let mut data = Data { root: root.to_path_buf(), images: 0 };
    for set in SFT {
        data.write_forms(set, &format!("sft/{set}/cot.none"), &format!("sft/{set}/direct.none"))?;
    }
    data.write_forms("sqa", "sft/sqa/cot.image.none", "sft/sqa/direct.image.none")?;
    for form in ["mcq", "sa"] {
        data.write_forms("gllava", &format!("sft/math/geo.{form}.x2"), &format!("sft/math/geo.{form}.direct"))?;
    }
    for name in ["geo-align.rationale.4k", "geo-qa.rationale.4k", "geo-align.qa.4k", "geo-qa.qa.4k"] {
        data.write_images(&format!("sft/math/{name}"), "geometry", "Describe the figure.", "A triangle")?;
    }
    data.write_images("sft/pt_data_mix_2k", "general", "What is this?", "A thing")?;
    for name in ["mathplus", "mathinstruct"] {
        let row = |n: usize| {
            llava_row(name, n, None, &format!("What is {n} + 2?"), &format!("{n} + 2.\n\n### Answer: {}", n + 2))
        };
        data.write(&format!("text/{name}"), &(0..ROWS).map(row).collect::<Vec<_>>())?;
    }
    for set in BENCH {
        let mut rows = Vec::new();
        for n in 0..ROWS {
            let image = data.image(&format!("bench-{set}"))?;
            rows.push(llava_row(set, n, Some(&image), &question(set, n), &answer(set, n)));
        }
        data.write(&format!("bench/{set}"), &rows)?;
    }
    let mut pairs = Vec::new();
    for n in 0..ROWS {
        pairs.push(json!({
            "idx": n, "ds_name": "rlaifv", "image": data.image("rlaifv")?, "question": "What is in the picture?",
            "chosen": format!("One colour, number {n}."), "rejected": "A dog and a cat.",
        }));
    }
    data.write("dpo/rlaifv", &pairs)?;
    fs::create_dir_all(root.join("base"))?;
    fs::write(root.join("base/README"), "Put the base model here, in the layout that `export` writes.\n")?;
    // `plan` reads the model's config.
    let vision = json!({ "dim": 8, "layers": 1, "heads": 2, "ff": 16 });
    let decoder = json!({
        "dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ff": 32, "rope_theta": 10000.0, "norm_eps": 1e-5,
        "tied_head": false, "max_positions": 4096,
    });
    let model = json!({
        "image_size": 8, "patch_size": 4, "vision": vision, "projector": { "hidden": 16 }, "decoder": decoder,
    });
    let config = json!({ "format": 1, "vocab": 64, "image_token": 1, "model": model });
    fs::write(root.join("base/config.json"), format!("{config:#}\n"))
}

struct Data {
    root: PathBuf,
    /// Number of images so far. Each has a different colour.
    images: u32,
}

impl Data {
    /// Writes the same questions with rationales and with short answers.
    fn write_forms(&mut self, set: &str, cot: &str, direct: &str) -> Result<()> {
        let letters = LETTERS.contains(&set);
        let (brief, reason) = if letters {
            (
                "Answer with the option's letter from the given choices directly.",
                "Generate a reason first and then output a letter answer.",
            )
        } else {
            ("Answer the question with a short answer.", "Generate a reason first and then output a short answer.")
        };
        let (mut long, mut short) = (Vec::new(), Vec::new());
        for n in 0..ROWS {
            let (image, question, answer) = (self.image(set)?, question(set, n), answer(set, n));
            let rationale = format!("The picture shows it.\n\n### Answer: {answer}");
            long.push(llava_row(set, n, Some(&image), &format!("{question}\n{reason}"), &rationale));
            short.push(llava_row(set, n, Some(&image), &format!("{question}\n{brief}"), &answer));
        }
        self.write(cot, &long)?;
        self.write(direct, &short)
    }

    fn write_images(&mut self, file: &str, set: &str, question: &str, answer: &str) -> Result<()> {
        let mut rows = Vec::new();
        for n in 0..ROWS {
            let image = self.image(set)?;
            rows.push(llava_row(set, n, Some(&image), question, &format!("{answer} {n}.")));
        }
        self.write(file, &rows)
    }

    fn image(&mut self, set: &str) -> Result<String> {
        let name = format!("{set}/{}.png", self.images);
        let colour = Rgb([self.images as u8, (self.images * 7) as u8, (self.images * 31) as u8]);
        self.images += 1;
        let path = self.root.join("images").join(&name);
        fs::create_dir_all(self.root.join("images").join(set))?;
        RgbImage::from_pixel(8, 8, colour).save_with_format(path, ImageFormat::Png).map_err(Error::other)?;
        Ok(name)
    }

    fn write(&self, name: &str, rows: &[Value]) -> Result<()> {
        let path = self.root.join(format!("{name}.jsonl"));
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        fs::write(path, lines.join("\n") + "\n")
    }
}

fn question(set: &str, n: usize) -> String {
    let options = if LETTERS.contains(&set) { "\nA. one\nB. two\nC. three" } else { "" };
    format!("What is the value of item {n} in this {set} picture?{options}")
}

fn answer(set: &str, n: usize) -> String {
    if LETTERS.contains(&set) { ["A", "B", "C"][n % 3].to_string() } else { (10 + n).to_string() }
}

/// A row in LLaVA's format.
fn llava_row(set: &str, n: usize, image: Option<&str>, human: &str, response: &str) -> Value {
    let prompt = if image.is_some() { format!("<image>\n{human}") } else { human.to_string() };
    let mut row = json!({
        "id": format!("{set}-{n}"),
        "conversations": [{ "from": "human", "value": prompt }, { "from": "gpt", "value": response }],
    });
    if let Some(image) = image {
        row["image"] = image.into();
    }
    row
}
