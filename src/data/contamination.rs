//! An index of the images and questions that a model was trained on, by content hash. It is stored with the weights, so
//! that an evaluation can report which items occur in the training data.
//!
//! ```text
//! image <first 32 hex digits of the hash of the encoded file>
//! question <first 32 hex digits of the hash of "<32 digits of the image, or empty>\n<question>">
//! ```
//!
//! Lines are sorted and unique. Questions are compared in lower case, with single spaces and without the instruction
//! that a prompt adds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::records::{Item, Overlap, Pair, Row};
use ablate_core::base::{Hash, files};

/// Reads the encoded file of an image key.
pub type ReadImage<'a> = dyn Fn(&str) -> Result<Vec<u8>> + Sync + 'a;

/// Name of the index file in a checkpoint folder.
pub const FILE: &str = "seen.txt";

/// Hashes of images and questions: the first 128 bits of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainingIndex {
    images: BTreeSet<u128>,
    questions: BTreeSet<u128>,
}

/// A question and the key of its image.
#[derive(Clone, Copy, Debug)]
pub struct QuestionRef<'a> {
    /// The key of the image.
    pub image: Option<&'a str>,
    pub question: &'a str,
}

impl<'a> From<&'a Item> for QuestionRef<'a> {
    fn from(item: &'a Item) -> QuestionRef<'a> {
        QuestionRef { image: item.image.as_deref(), question: &item.question }
    }
}

impl<'a> From<&'a Row> for QuestionRef<'a> {
    /// Without a separate question, the whole prompt counts as the question.
    fn from(row: &'a Row) -> QuestionRef<'a> {
        QuestionRef { image: row.image.as_deref(), question: row.question.as_ref().unwrap_or(&row.prompt) }
    }
}

impl<'a> From<&'a Pair> for QuestionRef<'a> {
    fn from(pair: &'a Pair) -> QuestionRef<'a> {
        QuestionRef { image: pair.image.as_deref(), question: pair.question.as_ref().unwrap_or(&pair.prompt) }
    }
}

impl TrainingIndex {
    /// Reads the index of a checkpoint folder; `None` if it has none.
    pub fn read(folder: &Path) -> Result<Option<TrainingIndex>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let mut index = TrainingIndex::default();
        for (number, line) in (1..).zip(files::read_text(&path)?.lines()) {
            let digits = |text: &str| (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
            match line.split_once(' ').map(|(what, text)| (what, digits(text))) {
                Some(("image", Some(hash))) => index.images.insert(hash),
                Some(("question", Some(hash))) => index.questions.insert(hash),
                _ => bail!(
                    "{}:{number}: `{line}` is not `image` or `question` followed by 32 hexadecimal digits",
                    path.display()
                ),
            };
        }
        Ok(Some(index))
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut text = String::new();
        for (what, hashes) in [("image", &self.images), ("question", &self.questions)] {
            for hash in hashes {
                writeln!(text, "{what} {hash:032x}").context("cannot write the training index")?;
            }
        }
        files::write_atomic(&folder.join(FILE), text.as_bytes())
    }

    /// Adds questions and their images. Returns the hash of each question with its image.
    pub fn add(&mut self, questions: &[QuestionRef<'_>], read_image: &ReadImage) -> Result<Vec<u128>> {
        let hashes = hashes(questions, read_image)?;
        for &(image, question) in &hashes {
            self.images.extend(image);
            self.questions.insert(question);
        }
        Ok(hashes.into_iter().map(|(_, question)| question).collect())
    }

    /// Looks each question up in the index.
    pub fn overlap(&self, questions: &[QuestionRef<'_>], read_image: &ReadImage) -> Result<Vec<Option<Overlap>>> {
        let overlap = |(image, question): (Option<u128>, u128)| {
            if self.questions.contains(&question) {
                Some(Overlap::Question)
            } else {
                image.filter(|image| self.images.contains(image)).map(|_| Overlap::Image)
            }
        };
        Ok(hashes(questions, read_image)?.into_iter().map(overlap).collect())
    }
}

/// The hashes of each image and question. Every image is read once, in parallel on the current thread pool.
fn hashes(questions: &[QuestionRef<'_>], read_image: &ReadImage) -> Result<Vec<(Option<u128>, u128)>> {
    let keys: BTreeSet<&str> = questions.iter().filter_map(|questions| questions.image).collect();
    let images: BTreeMap<&str, u128> = keys
        .into_par_iter()
        .map(|key| Ok((key, first_128_bits(Hash::of_bytes(&read_image(key)?)))))
        .collect::<Result<_>>()?;
    let of = |QuestionRef { image, question }: &QuestionRef<'_>| {
        let image = image.and_then(|key| images.get(key).copied());
        let normalized = question.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let about = image.map_or_else(String::new, |image| format!("{image:032x}"));
        (image, first_128_bits(Hash::of_bytes(format!("{about}\n{normalized}").as_bytes())))
    };
    Ok(questions.iter().map(of).collect())
}

fn first_128_bits(hash: Hash) -> u128 {
    hash.bytes()[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{ImagePacks, PackWriter, image_key};

    /// Two packs: the training image `a.png`, and the same bytes as `x.png` next to another image named `a.png`.
    fn packs(folder: &Path) -> (ImagePacks, [String; 3]) {
        let pack = |file: &str, members: &[(&str, &str)]| {
            let path = folder.join(file);
            let mut writer = PackWriter::create(&path).unwrap();
            for (name, bytes) in members {
                writer.add(name, bytes.as_bytes()).unwrap();
            }
            (writer.finish().unwrap(), path)
        };
        let (train, test) = (pack("1.tar", &[("a.png", "one")]), pack("2.tar", &[("x.png", "one"), ("a.png", "two")]));
        let keys = [image_key(train.0, "a.png"), image_key(test.0, "x.png"), image_key(test.0, "a.png")];
        (ImagePacks::open(&[train, test].into()).unwrap(), keys)
    }

    #[test]
    fn overlap_is_found_by_content_not_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (packs, [trained, same, other]) = packs(folder.path());
        let mut index = TrainingIndex::default();
        let query = |image, question| QuestionRef { image, question };
        index.add(&[query(Some(&trained), "How many?"), query(None, "2 + 3?")], &|key| packs.encoded(key)).unwrap();
        let items = [
            query(Some(&same), " how  MANY? "),
            query(Some(&same), "Which?"),
            query(Some(&other), "How many?"),
            query(None, "2 + 3?"),
            query(None, "How many?"),
        ];
        let expected = [Some(Overlap::Question), Some(Overlap::Image), None, Some(Overlap::Question), None];
        assert_eq!(index.overlap(&items, &|key| packs.encoded(key)).unwrap(), expected);
    }

    #[test]
    fn the_index_is_sorted_and_unique_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (packs, [trained, ..]) = packs(folder.path());
        assert_eq!(TrainingIndex::read(folder.path()).unwrap(), None);
        let mut index = TrainingIndex::default();
        index.add(&[QuestionRef { image: Some(&trained), question: "Why?" }; 2], &|key| packs.encoded(key)).unwrap();
        index.write(folder.path()).unwrap();
        let image = &Hash::of_bytes(b"one").to_string()[..32];
        let question = &Hash::of_bytes(format!("{image}\nwhy?").as_bytes()).to_string()[..32];
        let text = files::read_text(&folder.path().join(FILE)).unwrap();
        assert_eq!(text, format!("image {image}\nquestion {question}\n"));
        assert_eq!(TrainingIndex::read(folder.path()).unwrap(), Some(index));
        files::write_atomic(&folder.path().join(FILE), b"image 12\n").unwrap();
        let error = TrainingIndex::read(folder.path()).unwrap_err().to_string();
        let expected = "seen.txt:1: `image 12` is not `image` or `question` followed by 32 hexadecimal digits";
        assert!(error.ends_with(expected), "{error}");
    }
}
