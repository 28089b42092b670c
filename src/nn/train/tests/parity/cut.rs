//! Pairs of which only the beginnings are trained on (`truncate` of `pairs`): cut, encoded and trained.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{case, full};
use ablate_data::conversation::Conversation;
use ablate_data::image_keys::ImageKeys;
use ablate_data::image_text::ImageText;
use ablate_data::pairs::truncate_words;
use ablate_data::records::Pair;
use ablate_data::tokens::{ChatEncoder, TokenPair};

#[derive(Deserialize)]
struct CutPair {
    prompt: String,
    chosen_text: String,
    rejected_text: String,
    truncate: Truncate,
    chosen: Side,
    rejected: Side,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Truncate {
    Words(usize),
    Tokens(usize),
}

#[derive(Deserialize)]
struct Side {
    text: String,
    cut: bool,
    ids: Vec<u32>,
    loss: Vec<u8>,
}

#[test]
fn cut_pairs_match_transformers_and_torch() {
    let case = case("qwen2");
    let expected = case.expected("dpo-cut");
    let cut: Vec<CutPair> = serde_json::from_value::<Vec<Value>>(expected.fields["pairs"].clone())
        .unwrap()
        .into_iter()
        .map(|pair| serde_json::from_value(pair).unwrap())
        .collect();
    let conversation = Conversation::read(&case.folder).unwrap();
    let chat = ChatEncoder::from_conversation(conversation, Arc::new(|_| Ok(ImageText::default())), 128);
    let encode = |pair: &CutPair| -> TokenPair {
        let truncate = |text: &str| match pair.truncate {
            Truncate::Words(words) => truncate_words(text, words),
            Truncate::Tokens(tokens) => chat.tokenizer().truncate(text, tokens).unwrap(),
        };
        let (chosen, chosen_truncated) = truncate(&pair.chosen_text);
        let (rejected, rejected_truncated) = truncate(&pair.rejected_text);
        assert_eq!((&chosen, chosen_truncated), (&pair.chosen.text, pair.chosen.cut));
        assert_eq!((&rejected, rejected_truncated), (&pair.rejected.text, pair.rejected.cut));
        let (id, dataset, prompt) = ("1".to_string(), "cut".to_string(), pair.prompt.clone());
        let pair = Pair {
            id,
            dataset,
            images: ImageKeys::None,
            system: None,
            history: Vec::new(),
            prompt,
            chosen,
            rejected,
            chosen_truncated,
            rejected_truncated,
            question: None,
        };
        chat.encode_pair(&pair).unwrap()
    };
    let pairs: Vec<TokenPair> = cut.iter().map(encode).collect();
    for (ours, pair) in pairs.iter().zip(&cut) {
        for (ours, side) in [(&ours.chosen, &pair.chosen), (&ours.rejected, &pair.rejected)] {
            assert_eq!(ours.tokens, side.ids, "{}", side.text);
            assert_eq!(ours.loss, side.loss.iter().map(|&loss| loss == 1).collect::<Vec<_>>(), "{}", side.text);
        }
    }
    assert!(cut.iter().any(|pair| pair.chosen.cut && !pair.rejected.cut));
    full::follow(&case, "dpo-cut", &pairs);
}
