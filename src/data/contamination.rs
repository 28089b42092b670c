//! What a model was trained on, by content: its images, and its questions about them. It lies beside the weights, so
//! that an evaluation can say which of its items are new to the model. Knows no model.
//!
//! ```text
//! image <first 32 hex digits of the hash of the encoded file>
//! question <first 32 hex digits of the hash of "<the image's 32 digits, or nothing>\n<question>">
//! ```
//!
//! Sorted, each line once. A question is compared in lower case with single spaces, and without the instruction that a
//! prompt adds to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::records::{Item, Overlap, Pair, Row};
use ablate_core::base::{Hash, files};

/// From an image's key to its file, as it was packed.
pub type Encoded<'a> = dyn Fn(&str) -> Result<Vec<u8>> + Sync + 'a;

/// The file's name in the folder of a checkpoint.
pub const FILE: &str = "seen.txt";

/// Images and questions, each by the first half of its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainingIndex {
    images: BTreeSet<u128>,
    questions: BTreeSet<u128>,
}

/// A question about an image, as far as it can be recognised.
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
    /// Where the question is not known, the whole prompt counts as one.
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
    /// What lies in the folder of a checkpoint; none where nobody has kept it.
    pub fn read(folder: &Path) -> Result<Option<TrainingIndex>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let mut seen = TrainingIndex::default();
        for (index, line) in files::read_text(&path)?.lines().enumerate() {
            let digits = |text: &str| (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
            match line.split_once(' ').map(|(what, text)| (what, digits(text))) {
                Some(("image", Some(hash))) => seen.images.insert(hash),
                Some(("question", Some(hash))) => seen.questions.insert(hash),
                _ => bail!(
                    "{}:{}: not `image` or `question` and 32 hexadecimal digits: `{line}`",
                    path.display(),
                    index + 1
                ),
            };
        }
        Ok(Some(seen))
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut text = String::new();
        for (what, hashes) in [("image", &self.images), ("question", &self.questions)] {
            for hash in hashes {
                writeln!(text, "{what} {hash:032x}").context("cannot list what was seen")?;
            }
        }
        files::write_atomic(&folder.join(FILE), text.as_bytes())
    }

    /// Adds questions with their images.
    pub fn add(&mut self, asked: &[QuestionRef<'_>], encoded: &Encoded) -> Result<()> {
        for (image, question) in hashes(asked, encoded)? {
            self.images.extend(image);
            self.questions.insert(question);
        }
        Ok(())
    }

    /// What of each question is among what was seen.
    pub fn overlap(&self, asked: &[QuestionRef<'_>], encoded: &Encoded) -> Result<Vec<Option<Overlap>>> {
        let overlap = |(image, question): (Option<u128>, u128)| {
            if self.questions.contains(&question) {
                Some(Overlap::Question)
            } else {
                image.filter(|image| self.images.contains(image)).map(|_| Overlap::Image)
            }
        };
        Ok(hashes(asked, encoded)?.into_iter().map(overlap).collect())
    }
}

/// The hashes of image and question. Every image is read once, by all threads of the current pool.
fn hashes(asked: &[QuestionRef<'_>], encoded: &Encoded) -> Result<Vec<(Option<u128>, u128)>> {
    let keys: BTreeSet<&str> = asked.iter().filter_map(|asked| asked.image).collect();
    let images: BTreeMap<&str, u128> =
        keys.into_par_iter().map(|key| Ok((key, half(Hash::of_bytes(&encoded(key)?))))).collect::<Result<_>>()?;
    let of = |QuestionRef { image, question }: &QuestionRef<'_>| {
        let image = image.and_then(|key| images.get(key).copied());
        let plain = question.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let about = image.map_or_else(String::new, |image| format!("{image:032x}"));
        (image, half(Hash::of_bytes(format!("{about}\n{plain}").as_bytes())))
    };
    Ok(asked.iter().map(of).collect())
}

fn half(hash: Hash) -> u128 {
    hash.bytes()[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{ImagePacks, PackWriter, image_key};

    /// Packs of two images, `a.png` in both, under the same bytes.
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
    fn what_was_seen_is_known_by_content_and_not_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (packs, [trained, same, other]) = packs(folder.path());
        let mut seen = TrainingIndex::default();
        let asked = |image, question| QuestionRef { image, question };
        seen.add(&[asked(Some(&trained), "How many?"), asked(None, "2 + 3?")], &|key| packs.encoded(key)).unwrap();
        let items = [
            asked(Some(&same), " how  MANY? "),
            asked(Some(&same), "Which?"),
            asked(Some(&other), "How many?"),
            asked(None, "2 + 3?"),
            asked(None, "How many?"),
        ];
        let expected = [Some(Overlap::Question), Some(Overlap::Image), None, Some(Overlap::Question), None];
        assert_eq!(seen.overlap(&items, &|key| packs.encoded(key)).unwrap(), expected);
    }

    #[test]
    fn the_list_has_one_form_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (packs, [trained, ..]) = packs(folder.path());
        assert_eq!(TrainingIndex::read(folder.path()).unwrap(), None);
        let mut seen = TrainingIndex::default();
        seen.add(&[QuestionRef { image: Some(&trained), question: "Why?" }; 2], &|key| packs.encoded(key)).unwrap();
        seen.write(folder.path()).unwrap();
        let image = &Hash::of_bytes(b"one").to_string()[..32];
        let question = &Hash::of_bytes(format!("{image}\nwhy?").as_bytes()).to_string()[..32];
        let text = files::read_text(&folder.path().join(FILE)).unwrap();
        assert_eq!(text, format!("image {image}\nquestion {question}\n"));
        assert_eq!(TrainingIndex::read(folder.path()).unwrap(), Some(seen));
        files::write_atomic(&folder.path().join(FILE), b"image 12\n").unwrap();
        let error = TrainingIndex::read(folder.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("seen.txt:1: not `image` or `question` and 32 hexadecimal digits: `image 12`"),
            "{error}"
        );
    }
}
