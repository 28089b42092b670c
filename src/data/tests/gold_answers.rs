//! Gold answers and options of imported items: accepted forms and errors.

use crate::gold_answers::*;
use crate::records::{AnswerType, Item};
use crate::tests::support;

fn item(question: &str, options: &[&str], answers: &[&str]) -> Item {
    support::item(AnswerType::Letter, question, options, answers)
}

fn settled(options: &[&str], answer: &str, form: OptionAnswers) -> Result<String, String> {
    let mut item = item("Which?", options, &[answer]);
    settle(&mut item, form).map(|()| item.answers.join("|")).map_err(|wrong| wrong.join("\n"))
}

const COLOURS: &[&str] = &["red", "blue", "dark green"];

#[test]
fn a_letter_stays_as_it_is_written() {
    for answer in ["B", "b", "(B)", "B.", "B. blue", "B) Blue", "B: blue.", "B blue"] {
        assert_eq!(settled(COLOURS, answer, OptionAnswers::Letter).unwrap(), answer);
    }
}

#[test]
fn what_is_no_letter_is_told_with_the_key_that_reads_it() {
    let told = |options: &[&str], answer: &str| settled(options, answer, OptionAnswers::Letter).unwrap_err();
    assert_eq!(
        told(COLOURS, "1"),
        "the answer `1` is not the letter of an option: a place is read with `option_answers = \"index-0\"` or \
         `\"index-1\"`, whichever the first one is"
    );
    assert_eq!(
        told(COLOURS, "Dark green"),
        "the answer `Dark green` is not the letter of an option: it is the text of option C, which \
         `option_answers = \"text\"` reads"
    );
    assert_eq!(told(COLOURS, "white"), "the answer `white` is not the letter of an option: it names no option");
    assert_eq!(told(COLOURS, "D"), "the answer `D` names option D, and there are 3 options");
    assert_eq!(told(COLOURS, "B. red"), "the answer `B. red` names option B, which is `blue`");
    assert_eq!(
        told(&["2", "1"], "1"),
        "the answer `1` is not the letter of an option: it is the text of option B, which \
         `option_answers = \"text\"` reads; a place is read with `option_answers = \"index-0\"` or \
         `\"index-1\"`, whichever the first one is"
    );
}

#[test]
fn text_and_place_become_the_letter() {
    let read = |answer: &str, form| settled(COLOURS, answer, form);
    assert_eq!(read(" Blue ", OptionAnswers::Text).unwrap(), "B");
    assert_eq!(read("0", OptionAnswers::Index0).unwrap(), "A");
    assert_eq!(read("3", OptionAnswers::Index1).unwrap(), "C");
    // A genotype is another one in another case.
    assert_eq!(settled(&["hh", "Hh"], "Hh", OptionAnswers::Text).unwrap(), "B");
    assert_eq!(
        settled(&["hh", "Hh"], "HH", OptionAnswers::Text).unwrap_err(),
        "the answer `HH` is the text of no option: `option_answers` is \"text\""
    );
    assert_eq!(read("3", OptionAnswers::Index0).unwrap_err(), "the answer `3` names option D, and there are 3 options");
    for wrong in ["0", "-1", "1.0", "B", "27", "99999999999999999999"] {
        assert_eq!(
            read(wrong, OptionAnswers::Index1).unwrap_err(),
            format!("the answer `{wrong}` is not the place of an option: `option_answers` is \"index-1\"")
        );
    }
    let mut twice = item("Which?", COLOURS, &["blue", "Blue", "red"]);
    twice.rationale_answer = Some("Blue".into());
    settle(&mut twice, OptionAnswers::Text).unwrap();
    assert_eq!((twice.answers, twice.rationale_answer), (vec!["B".to_string(), "A".to_string()], None));
}

#[test]
fn what_a_text_concludes_is_a_letter_too() {
    let concluded = |told: &str| {
        let mut item = item("Which?", COLOURS, &["B"]);
        item.rationale_answer = Some(told.into());
        settle(&mut item, OptionAnswers::Letter).map(|()| item.rationale_answer).map_err(|wrong| wrong.join("\n"))
    };
    assert_eq!(concluded("A"), Ok(Some("A".to_string())));
    assert_eq!(concluded("none of these"), Ok(Some("none of these".to_string())));
    assert_eq!(
        concluded("blue").unwrap_err(),
        "the assistant's turn: the answer `blue` is not the letter of an option: it is the text of option B, which \
         `option_answers = \"text\"` reads"
    );
}

#[test]
fn options_that_cannot_be_told_apart_are_wrong() {
    let told = |options: &[&str]| check(&item("Which?", options, &["A"])).join("\n");
    assert_eq!(told(&["red", "blue", " red"]), "options A and C are both `red`");
    assert_eq!(told(&["red", " "]), "option B is empty");
    assert_eq!(told(&["Hh", "hh"]), "");
    let many: Vec<String> = (0..27).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(told(&many), "the row has 27 options: the letters A to Z name 26");
    assert_eq!(told(&many[..26]), "");
}

#[test]
fn a_question_may_list_its_options_itself() {
    let told = |question: &str, answer: &str| check(&item(question, &[], &[answer])).join("\n");
    let lists = [
        "Which?\nA. red\nB. blue\nC. green",
        "Which? Options: (A) red (B) blue (C) green",
        "Which?\nChoices:\nA:red\nB:blue\nC:green",
        "Which?\nA red\nB blue\nC green",
        "Which? (a) red, (b) blue, (c) green",
    ];
    for question in lists {
        assert_eq!(told(question, "C"), "", "{question}");
        assert_eq!(told(question, "D"), "the question lists no option `D`");
    }
    let none = "a letter is asked for, and there are no options: neither `options` nor the question lists them";
    for question in ["Which?", "What is vitamin A. Or B?", "A or B or C?"] {
        assert_eq!(told(question, "B"), none, "{question}");
    }
    let word = "the answer `red` is not the letter of an option: it names no option";
    assert_eq!(told("Which?", "red"), word);
    assert_eq!(told("Which?\nA. red\nB. blue", "red"), word);
}

#[test]
fn texts_that_nothing_could_match_are_wrong() {
    let told = |answer_type, answers: &[&str], rationale: Option<&str>| {
        let item = Item { answer_type, rationale: rationale.map(String::from), ..item("How many?", &[], answers) };
        check(&item).join("\n")
    };
    assert_eq!(told(AnswerType::Number, &["", "4"], None), "1 of 2 answers are empty");
    assert_eq!(told(AnswerType::Vqa, &["", "4"], None), "");
    assert_eq!(told(AnswerType::Vqa, &["", " "], None), "there is no answer");
    assert_eq!(told(AnswerType::Text, &[], None), "there is no answer");
    assert_eq!(
        told(AnswerType::Text, &["### Answer: 4"], Some("So.\n### Answer: 4")),
        "the answer `### Answer: 4` holds `### Answer:`, which stands before a final answer\n\
         the rationale holds `### Answer:`, which stands before the one final answer"
    );
}

#[test]
fn an_id_names_one_item_of_a_data_set() {
    let one = item("Which?", COLOURS, &["A"]);
    let other = Item { dataset: "other".into(), ..one.clone() };
    assert_eq!(check_ids([&one, &other]), Ok(()));
    assert_eq!(check_ids([&one, &other, &one]).unwrap_err(), "two items of `toy` have the id `1`");
}
