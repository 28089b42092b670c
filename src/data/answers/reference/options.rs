//! The option that VLMEvalKit finds in an answer without a judge model (`can_infer`). If it finds none, VLMEvalKit asks
//! a language model or, with exact matching, counts the answer as wrong.

use crate::prompts::option_letters;

/// Refusals of model services.
const REFUSALS: [&str; 4] = [
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
];

/// The letter of the option; `None` also for VLMEvalKit's `Z`, which stands for a refusal.
pub(super) fn infer(answer: &str, options: &[String]) -> Option<char> {
    let count = if options.is_empty() { 26 } else { options.len() };
    if answer.contains("Failed to obtain answer via API") {
        return by_text(answer, options);
    }
    if REFUSALS.iter().any(|refusal| answer.contains(refusal)) {
        return None;
    }
    let spaced = answer.replace(['.', '(', ')', '[', ']', ',', ':', ';', '!', '*', '#', '{', '}'], " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let place = |letter: char| words.iter().position(|word| word.chars().eq([letter]));
    let found: Vec<(char, usize)> =
        option_letters().take(count).filter_map(|letter| Some((letter, place(letter)?))).collect();
    match found[..] {
        // Among the last four words.
        [(letter, at)] if at + 5 > words.len() => Some(letter),
        [] if place('Z').is_some() => None,
        _ => by_text(answer, options),
    }
}

/// The only option whose text occurs, if the answer is at most twice as long as all options together.
fn by_text(answer: &str, options: &[String]) -> Option<char> {
    let answer = answer.to_lowercase();
    let all: usize = options.iter().map(|option| option.chars().count()).sum();
    if answer.chars().count() > 2 * all {
        return None;
    }
    let mut found = option_letters().zip(options).filter(|(_, option)| answer.contains(&option.to_lowercase()));
    let (letter, _) = found.next()?;
    found.next().is_none().then_some(letter)
}
