//! Writes synthetic data from a seed in seconds: PNG images, and rows in LLaVA's layout, which are read like any other
//! data.

mod example;
mod pretraining;
mod scene;
mod tasks;

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ImageEncoder, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use example::Example;

use super::import::llava::{LlavaRow, Turn};
use super::jsonl;
use ablate_core::base::{Seed, files};

/// The synthetic data sets. The first five are questions; the last three are pretraining data for a base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dataset {
    Chart,
    Pick,
    Math,
    Doc,
    Count,
    /// Descriptions of a whole image.
    Caption,
    /// Lists of requested parts of an image.
    List,
    /// Sums, comparisons and counts without image.
    Text,
}

/// Splits are different random streams, so that no example belongs to two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Dev,
    Test,
}

/// Writes `count` examples of each data set: `rows.jsonl`, and the images in `images/`. Example number `n` of a data
/// set depends only on seed, split, stream and `n`, so a larger count begins with the examples of a smaller one.
pub fn write(folder: &Path, datasets: &[Dataset], split: Split, stream: &str, count: usize, seed: Seed) -> Result<()> {
    let part = match stream {
        "" => split.name().to_string(),
        stream => format!("{}-{stream}", split.name()),
    };
    let jobs: Vec<(Dataset, usize)> =
        datasets.iter().flat_map(|&dataset| (0..count).map(move |number| (dataset, number))).collect();
    let images = folder.join("images");
    let rows: Vec<LlavaRow> = jobs
        .par_iter()
        .map(|&(dataset, number)| {
            let name = dataset.name();
            let example = dataset.example(seed.derive(&format!("synthetic/{name}/{part}/{number}")));
            let image = match &example.image {
                Some(image) => {
                    let path = format!("{name}/{part}/{number:06}.png");
                    write_png(&images.join(&path), image)?;
                    Some(path)
                }
                None => None,
            };
            Ok(row(format!("{name}-{part}-{number}"), dataset, image, example))
        })
        .collect::<Result<_>>()?;
    jsonl::write(&folder.join("rows.jsonl"), &rows)
}

impl Dataset {
    pub fn name(self) -> &'static str {
        match self {
            Dataset::Chart => "chart",
            Dataset::Pick => "pick",
            Dataset::Math => "math",
            Dataset::Doc => "doc",
            Dataset::Count => "count",
            Dataset::Caption => "caption",
            Dataset::List => "list",
            Dataset::Text => "text",
        }
    }

    fn example(self, seed: Seed) -> Example {
        let rng = &mut seed.stream("example");
        match self {
            Dataset::Chart => tasks::chart(rng),
            Dataset::Pick => tasks::pick(rng),
            Dataset::Math => tasks::math(rng),
            Dataset::Doc => tasks::doc(rng),
            Dataset::Count => tasks::count(rng),
            Dataset::Caption => pretraining::caption(rng),
            Dataset::List => pretraining::list(rng),
            Dataset::Text => pretraining::text(rng),
        }
    }
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Dev => "dev",
            Split::Test => "test",
        }
    }
}

fn row(id: String, dataset: Dataset, image: Option<String>, example: Example) -> LlavaRow {
    let Example { image: _, question, options, answer_type, answer, rationale, facts } = example;
    let opening = if image.is_some() { "<image>\n" } else { "" };
    LlavaRow {
        id,
        image,
        conversations: vec![Turn::human(format!("{opening}{question}")), Turn::gpt(answer.clone())],
        dataset: Some(dataset.name().to_string()),
        question: Some(question),
        options,
        answer_type: Some(answer_type),
        answer: Some(answer),
        answers: Vec::new(),
        rationale,
        facts,
    }
}

fn write_png(path: &Path, image: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::with_capacity(4096));
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::NoFilter)
        .write_image(image.as_raw(), image.width(), image.height(), image::ExtendedColorType::Rgb8)
        .with_context(|| format!("cannot encode `{}`", path.display()))?;
    std::io::Write::write_all(&mut files::create(path)?, bytes.get_ref())
        .with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::answers;
    use crate::import::options::{ImportOptions, RowFile};
    use crate::import::{Located, RowImages, Source, read_image, read_items};
    use crate::prompts::{PromptTemplate, Style, cot_response};
    use crate::records::{Failure, FinishReason, Item, Verdict};

    const ALL: [Dataset; 8] = [
        Dataset::Chart,
        Dataset::Pick,
        Dataset::Math,
        Dataset::Doc,
        Dataset::Count,
        Dataset::Caption,
        Dataset::List,
        Dataset::Text,
    ];

    fn made(split: Split, stream: &str, count: usize, seed: u64) -> (tempfile::TempDir, Vec<Located<Item>>) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &ALL, split, stream, count, Seed(seed)).unwrap();
        let file = RowFile { path: folder.path().join("rows.jsonl"), dataset: "none".into(), overrides_rows: false };
        let mut images = RowImages::new(Some(&folder.path().join("images")), &folder.path().join("unpacked"));
        let source = Source { columns: None, header: true, split: None };
        let (rows, _) = read_items(&[file], source, &ImportOptions::default(), &mut images).unwrap();
        (folder, rows)
    }

    #[test]
    fn one_example_of_each_data_set() {
        let (folder, rows) = made(Split::Train, "", 1, 0);
        let mut listing = String::new();
        for row in &rows {
            let item = &row.record;
            let questions = item.dataset != "caption" && item.dataset != "list" && item.dataset != "text";
            let template = if questions { PromptTemplate::cot() } else { PromptTemplate::bare() };
            let response = match &item.rationale {
                Some(rationale) => cot_response(rationale, &item.answers[0]),
                None => item.answers[0].clone(),
            };
            writeln!(listing, "[{}] {:?} -> {response:?}", item.id, template.render(item)).unwrap();
            assert_eq!(item.images.is_empty(), item.dataset == "text");
            for image in item.images.keys() {
                read_image(image, &folder.path().join("images").join(image), true).unwrap();
            }
        }
        expect_test::expect![[r#"
            [chart-train-0] "What is the sum of red, yellow and green?\nExplain first, then answer." -> "red6, yellow3, green4. 6+3=9. 9+4=13.\n### Answer: 13"
            [pick-train-0] "Which bar is largest?\nA red\nB blue\nC green\nExplain first, then answer with the letter." -> "red6 A, blue2 B, green1 C. 6 A>2 B>1 C. largest:6 A.\n### Answer: A"
            [math-train-0] "What is red times green plus yellow?\nExplain first, then answer." -> "red1, green1, yellow3. 1*1=1. 1+3=4.\n### Answer: 4"
            [doc-train-0] "What is in row 1, column 2?\nExplain first, then answer." -> "Row 1: red1, blue6. Column 2.\n### Answer: blue6"
            [count-train-0] "How many green shapes?\nExplain first, then answer." -> "yellow, green, blue, yellow, red, blue. green:1.\n### Answer: 1"
            [caption-train-0] "Describe the image." -> "red4, yellow1, blue5, green6."
            [list-train-0] "List row 2." -> "yellow1, green5."
            [text-train-0] "Compute." -> "4+2=6. 3+2=5. 5-3=2."
        "#]].assert_eq(&listing);
    }

    #[test]
    fn cot_responses_are_right_and_compliant() {
        let (_folder, rows) = made(Split::Dev, "", 50, 1);
        for Located { record: item, .. } in rows {
            if let Some(rationale) = &item.rationale {
                let response = cot_response(rationale, &item.answers[0]);
                let verdict =
                    answers::judge(&item, &response, FinishReason::Stop, Style::Cot, answers::DEFAULT_THRESHOLD);
                assert!(verdict.correct && verdict.compliant, "{item:?}");
                // The same rationale with a wrong answer states all facts.
                let response = cot_response(rationale, "nothing");
                let verdict =
                    answers::judge(&item, &response, FinishReason::Stop, Style::Cot, answers::DEFAULT_THRESHOLD);
                let failure = answers::failure(&item, &Verdict { unreadable: false, ..verdict });
                assert_eq!(failure, Some(Failure::Arithmetic), "{item:?}");
            }
        }
    }

    #[test]
    fn a_larger_count_keeps_the_first_examples() {
        let (_small, few) = made(Split::Train, "", 3, 5);
        let (_large, many) = made(Split::Train, "", 6, 5);
        for row in &few {
            assert!(many.iter().any(|other| other.record == row.record));
        }
    }

    #[test]
    fn splits_streams_and_seeds_differ() {
        let questions = |split, stream, seed| -> Vec<(String, Vec<String>)> {
            made(split, stream, 20, seed).1.into_iter().map(|row| (row.record.question, row.record.answers)).collect()
        };
        let train = questions(Split::Train, "", 0);
        assert_eq!(train, questions(Split::Train, "", 0));
        assert_ne!(train, questions(Split::Test, "", 0));
        assert_ne!(train, questions(Split::Train, "rollouts", 0));
        assert_ne!(train, questions(Split::Train, "", 1));
    }
}
