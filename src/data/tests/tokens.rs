//! Token sequences in the built-in layout: loss masks, images, truncation.

use std::sync::Arc;

use crate::chat_prompt::ChatPrompt;
use crate::image_keys::ImageKeys;
use crate::image_text::ImageText;
use crate::records::{Exchange, Pair, Row};
use crate::tokenizer::Tokenizer;
use crate::tokens::{ChatEncoder, TokenRow, TooLong};

fn chat(max_tokens: usize) -> ChatEncoder {
    let tokenizer = Tokenizer::train_word(["ab c"], 20).unwrap();
    ChatEncoder::new(tokenizer, Arc::new(|_| Ok(ImageText::run(3))), max_tokens).unwrap()
}

fn row(image: Option<&str>) -> Row {
    Row {
        id: "1".into(),
        dataset: "toy".into(),
        source: String::new(),
        images: image.map_or(ImageKeys::None, |key| ImageKeys::Leading(key.to_string())),
        system: None,
        history: Vec::new(),
        prompt: "ab".into(),
        response: "ab c".into(),
        question: None,
    }
}

fn pair(chosen: &str, rejected: &str) -> Pair {
    Pair {
        id: "1#0".into(),
        dataset: "toy".into(),
        images: ImageKeys::None,
        system: None,
        history: Vec::new(),
        prompt: "ab".into(),
        chosen: chosen.into(),
        rejected: rejected.into(),
        chosen_truncated: false,
        rejected_truncated: false,
        question: None,
    }
}

// Ids: <|pad|> 0, <|image|> 1, <|user|> 2, <|assistant|> 3, <|end|> 4, then ` c` 5 and `ab` 6.

#[test]
fn the_loss_covers_the_response_and_its_end() {
    let token_row = chat(20).encode_row(&row(Some("key")), false).unwrap();
    assert_eq!(token_row.tokens, [2, 1, 1, 1, 6, 3, 6, 5, 4]);
    assert_eq!(token_row.loss, [false, false, false, false, false, false, true, true, true]);
    assert_eq!(token_row.images, ["key"]);
    assert_eq!(chat(20).encode_row(&row(None), false).unwrap().tokens, [2, 6, 3, 6, 5, 4]);
}

#[test]
fn a_truncated_response_has_no_end_token() {
    let pair = Pair { chosen_truncated: true, ..pair("ab", " c") };
    let pair = chat(20).encode_pair(&pair).unwrap();
    assert_eq!(pair.chosen.tokens, [2, 6, 3, 6]);
    assert_eq!(pair.rejected.tokens, [2, 6, 3, 5, 4]);
    assert_eq!(pair.rejected.loss, [false, false, false, true, true]);
    let prompt = ChatPrompt::new(&ImageKeys::None, "ab");
    assert_eq!(chat(20).pieces(&prompt, "ab c", true).unwrap(), ["ab", " c"]);
    assert_eq!(chat(20).pieces(&prompt, " c", false).unwrap(), [" c", "<|end|>"]);
}

#[test]
fn a_row_begins_with_its_prompt() {
    let prompt = chat(20).encode_prompt("1", &ChatPrompt::from(&row(Some("key")))).unwrap();
    let row = chat(20).encode_row(&row(Some("key")), false).unwrap();
    assert!(row.tokens.starts_with(&prompt.tokens));
    assert_eq!(prompt.tokens.last(), Some(&3));
}

#[test]
fn a_too_long_sequence_names_its_row() {
    let error = chat(8).encode_row(&row(Some("key")), false).unwrap_err();
    assert_eq!(format!("{error:#}"), "row `1` of `toy`: the sequence has 9 tokens, the model allows 8");
    assert!(chat(9).encode_row(&row(Some("key")), false).is_ok());
    assert!(chat(5).encode_prompt("1", &ChatPrompt::from(&row(Some("key")))).is_err());
    assert!(TooLong::is(&error));
}

#[test]
fn a_row_is_truncated_at_the_end() {
    let truncated = |max| chat(max).truncate_row(&row(Some("key")), false).unwrap();
    let truncated_to_8 = truncated(8).unwrap();
    assert_eq!(truncated_to_8.tokens, [2, 1, 1, 1, 6, 3, 6, 5]);
    assert_eq!(truncated_to_8.loss, [false, false, false, false, false, false, true, true]);
    assert_eq!(truncated(9).unwrap(), chat(9).encode_row(&row(Some("key")), false).unwrap());
    // The prompt has six tokens, three of them image tokens.
    assert_eq!(truncated(7).unwrap().tokens, [2, 1, 1, 1, 6, 3, 6]);
    for max in 0..7 {
        assert_eq!(truncated(max), None, "{max}");
    }
}

#[test]
fn a_pair_equal_after_truncation_is_none() {
    let pair = pair("ab c c", "ab c");
    let truncated = |max| {
        let pair = chat(max).truncate_pair(&pair).unwrap();
        pair.map(|pair| (pair.chosen.tokens, pair.rejected.tokens))
    };
    assert_eq!(truncated(6), Some((vec![2, 6, 3, 6, 5, 5], vec![2, 6, 3, 6, 5, 4])));
    assert_eq!([truncated(5), truncated(4), truncated(3)], [None, None, None]);
}

#[test]
fn a_prompt_is_truncated_at_the_beginning() {
    let whole = "ab c c c";
    let truncated = |max, room| {
        let images = ImageKeys::Leading("key".into());
        let truncated = chat(max).truncate_prompt("1", &ChatPrompt::new(&images, whole), room).unwrap();
        truncated.map(|(text, prompt)| (text, prompt.tokens))
    };
    // All of it: `<|user|>`, three tokens of the image, four of the text, `<|assistant|>`.
    assert_eq!(truncated(10, 1), Some((whole.to_string(), vec![2, 1, 1, 1, 6, 5, 5, 5, 3])));
    assert_eq!(truncated(9, 1), Some((" c c c".to_string(), vec![2, 1, 1, 1, 5, 5, 5, 3])));
    assert_eq!(truncated(9, 3), Some((" c".to_string(), vec![2, 1, 1, 1, 5, 3])));
    assert_eq!(truncated(9, 4), None);
    assert_eq!(truncated(3, 0), None);
}

/// A conversation of two turns: `ab` about two images, and ` c`.
fn conversation() -> Row {
    Row {
        images: ImageKeys::Placed(vec!["one".into(), "two".into()]),
        system: Some(" c".into()),
        history: vec![Exchange { prompt: "<image> c<image>".into(), response: "ab".into() }],
        prompt: " c".into(),
        ..row(None)
    }
}

#[test]
fn every_turn_is_in_the_sequence_and_in_the_loss() {
    let tokens = |row: &Row, mask| chat(40).encode_row(row, mask).unwrap();
    let several = tokens(&conversation(), false);
    let system = [5];
    let (first, second) = ([2, 1, 1, 1, 5, 1, 1, 1, 3, 6, 4], [2, 5, 3, 6, 5, 4]);
    assert_eq!(several.tokens, [system.as_slice(), &first, &second].concat());
    let positions = |row: &TokenRow| (0..row.tokens.len()).filter(|&at| row.loss[at]).collect::<Vec<_>>();
    let start = system.len();
    assert_eq!(positions(&several), [9, 10, 14, 15, 16].map(|at| start + at));
    assert_eq!(several.images, ["one", "two"]);
    let masked = tokens(&conversation(), true);
    assert_eq!((&masked.tokens, &masked.images), (&several.tokens, &several.images));
    assert_eq!(positions(&masked), [14, 15, 16].map(|at| start + at));
}

#[test]
fn images_stand_at_their_placeholders() {
    let placed = |keys: &[&str], prompt: &str| {
        let images = ImageKeys::Placed(keys.iter().map(ToString::to_string).collect());
        chat(40).encode_prompt("1", &ChatPrompt::new(&images, prompt)).map(|prompt| prompt.tokens)
    };
    assert_eq!(placed(&["a"], "ab<image> c").unwrap(), [2, 6, 1, 1, 1, 5, 3]);
    assert_eq!(placed(&["a", "a"], "<image><image>").unwrap(), [2, 1, 1, 1, 1, 1, 1, 3]);
    let error = format!("{:#}", placed(&["a"], "<image> or <image>").unwrap_err());
    let message = "item `1`: `images` has 1 image(s), but the text has 2 `<image>`: write one where each image stands \
                   (`\\<image>` is the literal text)";
    assert_eq!(error, message);
    assert!(placed(&["a"], "\\<image>").is_err());
}

#[test]
fn a_conversation_is_truncated_after_a_response() {
    let mut row = conversation();
    row.system = None;
    row.history[0].prompt = "<image>ab".into();
    row.prompt = "<image> c".into();
    let truncated = |max, mask| {
        let truncated = chat(max).truncate_row(&row, mask).unwrap();
        truncated.map(|row| (row.tokens, row.loss.iter().filter(|is_target| **is_target).count(), row.images.len()))
    };
    let whole = vec![2, 1, 1, 1, 6, 3, 6, 4, 2, 1, 1, 1, 5, 3, 6, 5, 4];
    assert_eq!(truncated(17, false), Some((whole.clone(), 5, 2)));
    assert_eq!(truncated(15, false), Some((whole[..15].to_vec(), 3, 2)));
    // The second turn has no room for a response, so its image is left out too.
    for max in 8..15 {
        assert_eq!(truncated(max, false), Some((whole[..8].to_vec(), 2, 1)), "{max}");
    }
    assert_eq!(truncated(7, false), Some((whole[..7].to_vec(), 1, 1)));
    assert_eq!(truncated(6, false), None);
    assert_eq!((truncated(15, true), truncated(14, true)), (Some((whole[..15].to_vec(), 1, 2)), None));
}

#[test]
fn text_is_not_cut_after_a_placed_image() {
    let images = ImageKeys::Placed(vec!["a".into()]);
    let truncated = |max| {
        let prompt = ChatPrompt::new(&images, "ab c<image> c c");
        chat(max).truncate_prompt("1", &prompt, 1).unwrap().map(|(text, _)| text)
    };
    assert_eq!(truncated(10).as_deref(), Some("ab c<image> c c"));
    assert_eq!(truncated(9).as_deref(), Some(" c<image> c c"));
    assert_eq!(truncated(8), None);
}
