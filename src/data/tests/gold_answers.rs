//! Gold answers and options of imported items: accepted forms and errors.

use crate::gold_answers::*;
use crate::records::{AnswerType, Item};
use crate::tests::support;

fn item(question: &str, options: &[&str], answers: &[&str]) -> Item {
    support::item(AnswerType::Letter, question, options, answers)
}

fn normalized(options: &[&str], answer: &str, form: OptionAnswers) -> Result<String, String> {
    let mut item = item("Which?", options, &[answer]);
    normalize_answers(&mut item, form).map(|()| item.answers.join("|")).map_err(|wrong| wrong.join("\n"))
}

const COLOURS: &[&str] = &["red", "blue", "dark green"];

#[test]
fn a_letter_stays_as_written() {
    for answer in ["B", "b", "(B)", "B.", "B. blue", "B) Blue", "B: blue.", "B blue"] {
        assert_eq!(normalized(COLOURS, answer, OptionAnswers::Letter).unwrap(), answer);
    }
}

#[test]
fn errors_name_the_key_that_reads_the_answer() {
    let error = |options: &[&str], answer: &str| normalized(options, answer, OptionAnswers::Letter).unwrap_err();
    let messages = [
        error(COLOURS, "1"),
        error(COLOURS, "Dark green"),
        error(COLOURS, "white"),
        error(COLOURS, "D"),
        error(COLOURS, "B. red"),
        error(&["2", "1"], "1"),
    ];
    expect_test::expect![[r#"
        the answer `1` is not the letter of an option: for indices set `option_answers = "index-0"` or `"index-1"`
        the answer `Dark green` is not the letter of an option: it is the text of option C; for texts set `option_answers = "text"`
        the answer `white` is not the letter of an option: it names no option
        the answer `D` names option D, but there are 3 options
        the answer `B. red` names option B, which is `blue`
        the answer `1` is not the letter of an option: it is the text of option B; for texts set `option_answers = "text"`; for indices set `option_answers = "index-0"` or `"index-1"`"#]]
    .assert_eq(&messages.join("\n"));
}

#[test]
fn texts_and_indices_become_letters() {
    let read = |answer: &str, form| normalized(COLOURS, answer, form);
    assert_eq!(read(" Blue ", OptionAnswers::Text).unwrap(), "B");
    assert_eq!(read("0", OptionAnswers::Index0).unwrap(), "A");
    assert_eq!(read("3", OptionAnswers::Index1).unwrap(), "C");
    // Genotypes that differ in case are different.
    let genotype = |answer| normalized(&["hh", "Hh"], answer, OptionAnswers::Text);
    assert_eq!(genotype("Hh").unwrap(), "B");
    let error = "the answer `HH` is not the text of an option (`option_answers` is \"text\")";
    assert_eq!(genotype("HH").unwrap_err(), error);
    assert_eq!(read("3", OptionAnswers::Index0).unwrap_err(), "the answer `3` names option D, but there are 3 options");
    for wrong in ["0", "-1", "1.0", "B", "27", "99999999999999999999"] {
        let error = format!("the answer `{wrong}` is not the index of an option (`option_answers` is \"index-1\")");
        assert_eq!(read(wrong, OptionAnswers::Index1), Err(error));
    }
    let mut twice = item("Which?", COLOURS, &["blue", "Blue", "red"]);
    twice.rationale_answer = Some("Blue".into());
    normalize_answers(&mut twice, OptionAnswers::Text).unwrap();
    assert_eq!((twice.answers, twice.rationale_answer), (vec!["B".to_string(), "A".to_string()], None));
}

#[test]
fn the_rationale_answer_becomes_a_letter() {
    let rationale_answer = |answer: &str| {
        let mut item = item("Which?", COLOURS, &["B"]);
        item.rationale_answer = Some(answer.into());
        let result = normalize_answers(&mut item, OptionAnswers::Letter);
        result.map(|()| item.rationale_answer).map_err(|wrong| wrong.join("\n"))
    };
    assert_eq!(rationale_answer("A"), Ok(Some("A".to_string())));
    assert_eq!(rationale_answer("none of these"), Ok(Some("none of these".to_string())));
    assert_eq!(
        rationale_answer("blue").unwrap_err(),
        "the assistant's turn: the answer `blue` is not the letter of an option: it is the text of option B; for texts set \
         `option_answers = \"text\"`"
    );
}

#[test]
fn equal_or_empty_options_are_errors() {
    let error = |options: &[&str]| check(&item("Which?", options, &["A"])).join("\n");
    assert_eq!(error(&["red", "blue", " red"]), "options A and C are both `red`");
    assert_eq!(error(&["red", " "]), "option B is empty");
    assert_eq!(error(&["Hh", "hh"]), "");
    let many: Vec<String> = (0..27).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(error(&many), "the row has 27 options, at most 26 (A to Z) are possible");
    assert_eq!(error(&many[..26]), "");
}

#[test]
fn a_question_may_list_the_options() {
    let error = |question: &str, answer: &str| check(&item(question, &[], &[answer])).join("\n");
    let lists = [
        "Which?\nA. red\nB. blue\nC. green",
        "Which? Options: (A) red (B) blue (C) green",
        "Which?\nChoices:\nA:red\nB:blue\nC:green",
        "Which?\nA red\nB blue\nC green",
        "Which? (a) red, (b) blue, (c) green",
    ];
    for question in lists {
        assert_eq!(error(question, "C"), "", "{question}");
        assert_eq!(error(question, "D"), "the question lists no option `D`");
    }
    let none = "the answer type is a letter, but neither `options` nor the question lists options";
    for question in ["Which?", "What is vitamin A. Or B?", "A or B or C?"] {
        assert_eq!(error(question, "B"), none, "{question}");
    }
    let word = "the answer `red` is not the letter of an option: it names no option";
    assert_eq!(error("Which?", "red"), word);
    assert_eq!(error("Which?\nA. red\nB. blue", "red"), word);
}

#[test]
fn answers_that_nothing_can_match_are_errors() {
    let error = |answer_type, answers: &[&str], rationale: Option<&str>| {
        let item = Item { answer_type, rationale: rationale.map(String::from), ..item("How many?", &[], answers) };
        check(&item).join("\n")
    };
    assert_eq!(error(AnswerType::Number, &["", "4"], None), "1 of 2 answers are empty");
    assert_eq!(error(AnswerType::Vqa, &["", "4"], None), "");
    assert_eq!(error(AnswerType::Vqa, &["", " "], None), "the item has no answer");
    assert_eq!(error(AnswerType::Text, &[], None), "the item has no answer");
    assert_eq!(
        error(AnswerType::Text, &["### Answer: 4"], Some("So.\n### Answer: 4")),
        "the answer `### Answer: 4` contains `### Answer:`, the marker of a final answer\n\
         the rationale contains `### Answer:`, the marker of the final answer"
    );
}

#[test]
fn ids_are_unique_within_a_data_set() {
    let one = item("Which?", COLOURS, &["A"]);
    let other = Item { dataset: "other".into(), ..one.clone() };
    assert_eq!(check_ids([&one, &other]), Ok(()));
    assert_eq!(check_ids([&one, &other, &one]).unwrap_err(), "two items of `toy` have the id `1`");
}
