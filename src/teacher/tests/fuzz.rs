//! Fuzzing of what endpoints send: every body is a completion or an error.

use ablate_fuzz::{apply_edits, edits, fuzz, print_case};

use crate::teacher::completion;

const PIECES: &[&str] = &[
    "null",
    "0",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "\"length\"",
    "\"content_filter\"",
    "\"\\ud800\"",
    "ü",
    ",",
    "\n",
    "[[[[[[[[[[[[[[[[",
];

const VALID: &str = r#"{"model": "m", "choices": [{"message": {"content": [{"text": "A"}], "refusal": null, "reasoning": "ü"},
"finish_reason": "length"}, {"message": {"content": "B"}}], "error": null,
"usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}}"#;

#[test]
fn any_body_is_a_completion_or_an_error() {
    assert_eq!(completion::parse(VALID.as_bytes()).unwrap().choices.len(), 2);
    fuzz("chat completion", &edits(PIECES), |edits| match completion::parse(&apply_edits(VALID.as_bytes(), &edits)) {
        Ok(completion) => {
            assert!(!completion.choices.is_empty());
            print_case(&completion);
        }
        Err(error) => print_case(&error),
    });
}
