//! An index of the images and questions that a model was trained on, by content hash. It is stored with the weights, so
//! that an evaluation can report which items occur in the training data.
//!
//! ```text
//! image <first 32 hex digits of the hash of the encoded file>
//! question <first 32 hex digits of the hash of "<32 digits of each image>\n<question>">
//! ```
//!
//! Lines are sorted and unique. Questions are compared in lower case, with single spaces and without the instruction
//! that a prompt adds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::chat_prompt::ChatPrompt;
use super::image_placeholders::Part;
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

/// A question and the keys of its images.
#[derive(Clone, Debug)]
pub struct QuestionRef<'a> {
    pub images: Vec<&'a str>,
    pub question: &'a str,
}

impl<'a> QuestionRef<'a> {
    /// The question of an item.
    pub fn of_item(item: &'a Item) -> QuestionRef<'a> {
        QuestionRef { images: item.images.keys().iter().map(String::as_str).collect(), question: &item.question }
    }
}

/// A training example, whose questions are recorded.
pub trait Questions {
    /// The question of each of the user's turns, in order.
    fn questions(&self) -> Vec<QuestionRef<'_>>;
}

impl Questions for Row {
    fn questions(&self) -> Vec<QuestionRef<'_>> {
        questions(&self.into(), self.question.as_deref())
    }
}

impl Questions for Pair {
    fn questions(&self) -> Vec<QuestionRef<'_>> {
        questions(&self.into(), self.question.as_deref())
    }
}

/// The questions of a conversation. A turn asks about its own images, or about all earlier ones if it has none. Without a
/// separate question, the whole prompt counts as the question.
fn questions<'a>(chat: &ChatPrompt<'a>, question: Option<&'a str>) -> Vec<QuestionRef<'a>> {
    let keys = chat.images.keys();
    let last = chat.history.len();
    let mut seen = 0;
    let turns = chat.user_turns().zip(chat.parts()).enumerate();
    let question = |(turn, (text, parts)): (usize, (&'a str, Vec<Part<'a>>))| {
        let before = seen;
        seen += parts.iter().filter(|part| **part == Part::Image).count();
        let images = if seen > before { before..seen } else { 0..seen };
        // The number of placeholders may be wrong, which is an error when the row is encoded.
        let images = keys.get(images).unwrap_or(keys).iter().map(String::as_str).collect();
        QuestionRef { images, question: question.filter(|_| turn == last).unwrap_or(text) }
    };
    turns.map(question).collect()
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
        for (images, question) in &hashes {
            self.images.extend(images);
            self.questions.insert(*question);
        }
        Ok(hashes.into_iter().map(|(_, question)| question).collect())
    }

    /// Looks each question up in the index. A question with several images overlaps if one of them was trained on.
    pub fn overlap(&self, questions: &[QuestionRef<'_>], read_image: &ReadImage) -> Result<Vec<Option<Overlap>>> {
        let overlap = |(images, question): (Vec<u128>, u128)| {
            if self.questions.contains(&question) {
                Some(Overlap::Question)
            } else {
                images.iter().any(|image| self.images.contains(image)).then_some(Overlap::Image)
            }
        };
        Ok(hashes(questions, read_image)?.into_iter().map(overlap).collect())
    }
}

/// The hashes of the images and of the question of each. Every image is read once, in parallel on the current thread pool.
fn hashes(questions: &[QuestionRef<'_>], read_image: &ReadImage) -> Result<Vec<(Vec<u128>, u128)>> {
    let keys: BTreeSet<&str> = questions.iter().flat_map(|question| question.images.iter().copied()).collect();
    let images: BTreeMap<&str, u128> = keys
        .into_par_iter()
        .map(|key| Ok((key, first_128_bits(Hash::of_bytes(&read_image(key)?)))))
        .collect::<Result<_>>()?;
    let of = |QuestionRef { images: keys, question }: &QuestionRef<'_>| {
        let images: Vec<u128> = keys.iter().filter_map(|key| images.get(key).copied()).collect();
        let normalized = question.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let digits: Vec<String> = images.iter().map(|image| format!("{image:032x}")).collect();
        let about = format!("{}\n{normalized}", digits.concat());
        let question = first_128_bits(Hash::of_bytes(about.as_bytes()));
        (images, question)
    };
    Ok(questions.iter().map(of).collect())
}

fn first_128_bits(hash: Hash) -> u128 {
    hash.bytes()[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_keys::ImageKeys;
    use crate::images::{ImagePacks, PackWriter, image_key};
    use crate::records::Exchange;

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

    fn query<'a>(image: Option<&'a str>, question: &'a str) -> QuestionRef<'a> {
        QuestionRef { images: image.into_iter().collect(), question }
    }

    #[test]
    fn overlap_is_found_by_content_not_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (packs, [trained, same, other]) = packs(folder.path());
        let mut index = TrainingIndex::default();
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
        let question = QuestionRef { images: vec![&trained], question: "Why?" };
        index.add(&[question.clone(), question], &|key| packs.encoded(key)).unwrap();
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

    #[test]
    fn every_turn_asks_about_its_images() {
        let row = |images, history: &[&str], prompt: &str| Row {
            id: "1".into(),
            dataset: "toy".into(),
            source: String::new(),
            images,
            system: None,
            history: history
                .iter()
                .map(|prompt| Exchange { prompt: prompt.to_string(), response: "yes".into() })
                .collect(),
            prompt: prompt.into(),
            response: "no".into(),
            question: None,
        };
        let asked = |row: &Row| -> Vec<(String, String)> {
            let show = |question: QuestionRef| (question.images.join(" "), question.question.to_string());
            row.questions().into_iter().map(show).collect()
        };
        let pairs = |expected: &[(&str, &str)]| -> Vec<(String, String)> {
            expected.iter().map(|(images, question)| (images.to_string(), question.to_string())).collect()
        };
        let leading = row(ImageKeys::Leading("a".into()), &["How many?"], "And red?");
        assert_eq!(asked(&leading), pairs(&[("a", "How many?"), ("a", "And red?")]));
        let placed = ImageKeys::Placed(["a", "b", "c"].map(String::from).to_vec());
        let placed = row(placed, &["Hello.", "<image>?", "<image><image>?"], "So?");
        let expected = [("", "Hello."), ("a", "<image>?"), ("b c", "<image><image>?"), ("a b c", "So?")];
        assert_eq!(asked(&placed), pairs(&expected));
        let questioned = Row { question: Some("Red?".into()), ..leading };
        assert_eq!(asked(&questioned), pairs(&[("a", "How many?"), ("a", "Red?")]));
    }

    #[test]
    fn one_of_several_images_overlaps() {
        let folder = tempfile::tempdir().unwrap();
        let (packs, [trained, same, other]) = packs(folder.path());
        let mut index = TrainingIndex::default();
        let (trained, same, other) = (trained.as_str(), same.as_str(), other.as_str());
        let question = "Which?";
        let add = QuestionRef { images: vec![trained, other], question };
        index.add(&[add], &|key| packs.encoded(key)).unwrap();
        let items = [vec![same, other], vec![other, same], vec![other]].map(|images| QuestionRef { images, question });
        let expected = [Some(Overlap::Question), Some(Overlap::Image), Some(Overlap::Image)];
        assert_eq!(index.overlap(&items, &|key| packs.encoded(key)).unwrap(), expected);
    }
}
