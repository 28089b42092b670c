//! Converts text to token ids and back. A tokenizer is trained here (byte-level BPE or words) or read from a
//! `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, Encoding, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
};

use super::tokenizer_limits::{MAX_FILE_BYTES, Pipeline};
use ablate_core::base::files;

/// The special tokens of the built-in layout. A tokenizer trained here gives them the first ids, in this order.
pub const SPECIAL_TOKENS: [&str; 5] = ["<|pad|>", "<|image|>", "<|user|>", "<|assistant|>", "<|end|>"];

/// The token that ends a turn.
pub const END_TOKEN: &str = SPECIAL_TOKENS[4];

/// Name of the tokenizer file in a folder, as in `transformers`.
pub const FILE: &str = "tokenizer.json";

/// A word of [`Tokenizer::train_word`]: a run of letters or of `#` with the preceding space, one digit, or any other
/// single character. The words of a text joined together are the text.
const WORD: &str = r" ?#+| ?\p{L}+|\p{N}|[\s\S]";

#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

/// Ids of the special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    pub pad: u32,
    /// A placeholder for one projector output (one image feature).
    pub image: u32,
    pub user: u32,
    pub assistant: u32,
    /// Ends a turn.
    pub end: u32,
}

impl Tokenizer {
    /// Trains byte-level BPE with at most `vocab` tokens: the special tokens, 256 bytes, then merges. Every digit is a
    /// token of its own, so that a number has the same tokens in every context. Any text can be encoded.
    pub fn train_bpe<'a>(texts: impl IntoIterator<Item = &'a str>, vocab: usize) -> Result<Tokenizer> {
        let least = SPECIAL_TOKENS.len() + 256;
        if vocab < least {
            let special = SPECIAL_TOKENS.len();
            bail!("a byte-level vocabulary has at least {least} tokens ({special} special, 256 bytes), not {vocab}");
        }
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        inner.with_pre_tokenizer(Some(Sequence::new(vec![
            Digits::new(true).into(),
            ByteLevel::default().add_prefix_space(false).use_regex(true).into(),
        ])));
        inner.with_decoder(Some(ByteLevelDecoder::default()));
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(SPECIAL_TOKENS.iter().map(|name| AddedToken::from(*name, true)).collect())
            .build();
        let texts: Vec<String> = texts.into_iter().map(str::to_string).collect();
        inner
            .train(&mut TrainerWrapper::from(trainer), texts.into_iter())
            .map_err(|error| anyhow!("cannot train the tokenizer: {error}"))?;
        Tokenizer::with_special_tokens(inner)
    }

    /// Trains a word-level tokenizer: one token per word, digit or other character, most frequent first, at most
    /// `vocab` in total. Words outside the vocabulary cannot be encoded, so it is meant for a closed vocabulary.
    pub fn train_word<'a>(texts: impl IntoIterator<Item = &'a str>, vocab: usize) -> Result<Tokenizer> {
        let splitter = Split::new(SplitPattern::Regex(WORD.to_string()), SplitDelimiterBehavior::Isolated, false)
            .map_err(|error| anyhow!("BUG: the pattern of a word: {error}"))?;
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for text in texts {
            let mut pieces = PreTokenizedString::from(text);
            splitter.pre_tokenize(&mut pieces).map_err(|error| anyhow!("cannot split into words: {error}"))?;
            for (word, _, _) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                *counts.entry(word.to_string()).or_default() += 1;
            }
        }
        let mut words: Vec<(String, u64)> = counts.into_iter().collect();
        words.sort_by(|(one, count), (other, larger)| larger.cmp(count).then_with(|| one.cmp(other)));
        if words.len() + SPECIAL_TOKENS.len() > vocab {
            bail!(
                "the texts have {} different words, but `vocab` = {vocab} allows {}: \
                 raise `vocab`, or use kind `bpe`",
                words.len(),
                vocab.saturating_sub(SPECIAL_TOKENS.len())
            );
        }
        let words = words.into_iter().map(|(word, _)| word);
        let names = SPECIAL_TOKENS.iter().map(ToString::to_string).chain(words);
        let model = WordLevel::builder()
            .vocab(names.zip(0u32..).collect())
            // This token is not in the vocabulary, so that an unknown word is an error.
            .unk_token("<|unknown|>".to_string())
            .build()
            .map_err(|error| anyhow!("cannot build the tokenizer: {error}"))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(splitter));
        inner.with_decoder(Some(Fuse::new()));
        Tokenizer::with_special_tokens(inner)
    }

    /// Reads a `tokenizer.json`, or the one in a folder. Missing special tokens are added at the end.
    pub fn read(path: &Path) -> Result<Tokenizer> {
        Tokenizer::with_special_tokens(load(path)?).with_context(|| format!("`{}` cannot be used", path.display()))
    }

    /// Writes a `tokenizer.json` that the `tokenizers` and `transformers` packages can read.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.inner.to_string(true).map_err(|error| anyhow!("cannot write the tokenizer: {error}"))?;
        files::write_atomic(path, text.as_bytes())
    }

    /// The ids of a text. Special tokens in the text are encoded as plain characters; only the chat layout inserts
    /// special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| unknown_word(text, &*error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The part of the text that each token covers; joined they are the text. If several tokens share a character, the
    /// first one gets it.
    pub fn pieces(&self, text: &str) -> Result<Vec<String>> {
        let encoding = self.encoding(text)?;
        let mut pieces = Vec::with_capacity(encoding.len());
        let mut start = 0;
        for (index, &(_, end)) in encoding.get_offsets().iter().enumerate() {
            let mut end = if index + 1 == encoding.len() { text.len() } else { end.max(start) };
            while !text.is_char_boundary(end) && end < text.len() {
                end += 1;
            }
            pieces.push(text[start..end].to_string());
            start = end;
        }
        Ok(pieces)
    }

    /// The text of ids. Special tokens are written by name, so that the output of a model is shown completely. Invalid
    /// UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|error| anyhow!("cannot decode {} tokens: {error}", ids.len()))
    }

    /// The text of the first `count` tokens, and whether the text was truncated. A character that is only partly
    /// included is dropped.
    pub fn truncate(&self, text: &str, count: usize) -> Result<(String, bool)> {
        let ids = self.encode(text)?;
        if ids.len() <= count {
            return Ok((text.to_string(), false));
        }
        let start = self.decode(&ids[..count])?;
        Ok((start.trim_end_matches(char::REPLACEMENT_CHARACTER).to_string(), true))
    }

    /// The ids of a text with their offsets.
    pub(super) fn encoding(&self, text: &str) -> Result<Encoding> {
        self.inner.encode(text, false).map_err(|error| unknown_word(text, &*error))
    }

    /// Number of ids, including special tokens.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Checks that an embedding of `rows` rows has a row for every id. Further rows are padding.
    pub fn check_embedding_rows(&self, rows: usize) -> Result<()> {
        let ids = self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if ids > rows {
            bail!("the tokenizer has {ids} tokens, but the model's embedding has {rows} rows");
        }
        Ok(())
    }

    /// The ids of the special tokens. The tokenizer of a Hugging Face folder does not have them.
    pub fn special(&self) -> Result<SpecialTokens> {
        let id = |name: &str| {
            self.inner.token_to_id(name).ok_or_else(|| anyhow!("the tokenizer has no special token `{name}`"))
        };
        let [pad, image, user, assistant, end] = SPECIAL_TOKENS;
        Ok(SpecialTokens {
            pad: id(pad)?,
            image: id(image)?,
            user: id(user)?,
            assistant: id(assistant)?,
            end: id(end)?,
        })
    }

    /// A tokenizer with the special tokens added.
    fn with_special_tokens(mut inner: tokenizers::Tokenizer) -> Result<Tokenizer> {
        inner
            .add_special_tokens(SPECIAL_TOKENS.iter().map(|name| AddedToken::from(*name, true)))
            .map_err(|error| anyhow!("cannot add the special tokens: {error}"))?;
        Tokenizer::without_added_tokens(inner)
    }

    /// A tokenizer with an unchanged vocabulary.
    pub(super) fn without_added_tokens(mut inner: tokenizers::Tokenizer) -> Result<Tokenizer> {
        inner.set_encode_special_tokens(true);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| anyhow!("cannot switch truncation off: {error}"))?;
        Ok(Tokenizer { inner })
    }
}

/// Reads a `tokenizer.json`, or the one in a folder, without changes.
pub(super) fn load(path: &Path) -> Result<tokenizers::Tokenizer> {
    let inside = path.join(FILE);
    let path = if path.is_dir() { &inside } else { path };
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if size > MAX_FILE_BYTES {
        bail!("`{}` has {size} bytes: at most {MAX_FILE_BYTES} are allowed", path.display());
    }
    let bytes = files::read_bytes(path)?;
    parse(&bytes).with_context(|| format!("`{}` is not a tokenizer", path.display()))
}

/// Parses a `tokenizer.json`. The library panics on invalid parts: invalid JSON is rejected before, and other panics
/// are caught.
fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    serde_json::from_slice::<Pipeline>(bytes)?.check()?;
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes)) {
        Ok(read) => read.map_err(|error| anyhow!("{error}")),
        Err(_) => bail!("a part of it is invalid"),
    }
}

pub(super) fn unknown_word(text: &str, error: &dyn std::error::Error) -> anyhow::Error {
    let start: String = text.chars().take(60).collect();
    anyhow!("cannot encode `{start}`: a word is not in the tokenizer's vocabulary ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 4] = [
        "What is the sum of red and blue?\nExplain first, then answer.",
        "red=3, blue=12. 3+12=15.\n### Answer: 15",
        "What is the sum of red and green?\nExplain first, then answer.",
        "Größe  naïve 日本 🦀\t\u{1F468}\u{200D}\u{1F469}",
    ];

    #[test]
    fn bpe_decodes_every_text_unchanged() {
        let tokenizer = Tokenizer::train_bpe(TEXTS, 320).unwrap();
        for text in
            TEXTS.into_iter().chain(["", " ", "\n\n  x", "an unseen Ω text \u{0} 123", "<|end|>", "<|unk|> <|user|>x"])
        {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn pieces_are_the_texts_of_tokens() {
        let words = Tokenizer::train_word(TEXTS, 200).unwrap();
        let pieces = words.pieces("red=3, blue\n### 12").unwrap();
        assert_eq!(pieces, ["red", "=", "3", ",", " blue", "\n", "###", " ", "1", "2"]);
        // `é` has two bytes, which are two tokens here.
        let bytes = Tokenizer::train_bpe([""], 261).unwrap();
        assert_eq!(bytes.pieces("aé3").unwrap(), ["a", "é", "", "3"]);
        let merged = Tokenizer::train_bpe(TEXTS, 320).unwrap();
        for text in TEXTS {
            let pieces = merged.pieces(text).unwrap();
            assert_eq!((pieces.len(), pieces.concat().as_str()), (merged.encode(text).unwrap().len(), text));
        }
    }

    #[test]
    fn truncation_keeps_whole_characters() {
        let tokenizer = Tokenizer::train_bpe([""], 261).unwrap();
        assert_eq!(tokenizer.truncate("aé3", 2).unwrap(), ("a".to_string(), true));
        assert_eq!(tokenizer.truncate("aé3", 3).unwrap(), ("aé".to_string(), true));
        assert_eq!(tokenizer.truncate("aé3", 4).unwrap(), ("aé3".to_string(), false));
    }

    #[test]
    fn every_digit_is_a_token() {
        let tokenizer = Tokenizer::train_bpe(std::iter::repeat_n("2024 2024 12", 50), 300).unwrap();
        let digit = |text: &str| tokenizer.encode(text).unwrap();
        assert_eq!(digit("2024"), [digit("2"), digit("0"), digit("2"), digit("4")].concat());
        assert_eq!(digit("2").len(), 1);
    }

    #[test]
    fn text_never_becomes_a_special_token() {
        for tokenizer in [Tokenizer::train_bpe(TEXTS, 320).unwrap(), Tokenizer::train_word(["<|end|>a"], 50).unwrap()] {
            let special = tokenizer.special().unwrap();
            let ids = tokenizer.encode("<|end|>a<|end|>").unwrap();
            assert!(ids.len() > 3 && !ids.contains(&special.end), "{ids:?}");
            assert_eq!(tokenizer.decode(&[special.end, special.pad]).unwrap(), "<|end|><|pad|>");
        }
    }

    #[test]
    fn training_is_deterministic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        for train in [Tokenizer::train_bpe(TEXTS, 320), Tokenizer::train_word(TEXTS, 200)] {
            let tokenizer = train.unwrap();
            tokenizer.write(&path).unwrap();
            let again = Tokenizer::read(&path).unwrap();
            assert_eq!(again.special().unwrap(), SpecialTokens { pad: 0, image: 1, user: 2, assistant: 3, end: 4 });
            assert_eq!(again.vocab_size(), tokenizer.vocab_size());
            assert_eq!(again.encode(TEXTS[1]).unwrap(), tokenizer.encode(TEXTS[1]).unwrap());
            assert!(!again.encode("<|end|>").unwrap_or_default().contains(&4));
        }
        let texts = |tokenizer: &Tokenizer| tokenizer.inner.to_string(false).unwrap();
        let one = texts(&Tokenizer::train_bpe(TEXTS, 320).unwrap());
        assert_eq!(one, texts(&Tokenizer::train_bpe(TEXTS, 320).unwrap()));
    }

    #[test]
    fn unknown_words_are_errors() {
        let tokenizer = Tokenizer::train_word(TEXTS, 200).unwrap();
        let ids = tokenizer.encode("red=3, blue=12.\n### Answer: 15").unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), "red=3, blue=12.\n### Answer: 15");
        assert_eq!(ids.len(), 16);
        let error = tokenizer.encode("a purple bar").unwrap_err().to_string();
        assert!(error.starts_with("cannot encode `a purple bar`: a word is not in"), "{error}");
        assert!(Tokenizer::train_word(TEXTS, 10).unwrap_err().to_string().contains("raise `vocab`"));
    }

    #[test]
    fn an_invalid_tokenizer_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        files::write_atomic(&path, b"{\"version\":\"1.0\"}").unwrap();
        let error = Tokenizer::read(&path).unwrap_err().to_string();
        assert_eq!(error, format!("`{}` is not a tokenizer", path.display()));
    }
}
