//! The answers of a report as the page's script reads them.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use serde_json::Value;

use super::support::{evaluation, input, scores_mut, spec, study};
use crate::input::ScoreSource;
use crate::{ReportInput, build};
use ablate_data::image_keys::ImageKeys;
use ablate_data::records::FinishReason;

fn unpack(text: &str) -> Value {
    let bytes = STANDARD.decode(text).unwrap();
    let mut json = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut json).unwrap();
    serde_json::from_str(&json).unwrap()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn every_answer_has_a_verdict_and_texts() {
    let mut evaluations = study();
    let scores = scores_mut(&mut evaluations[0]);
    (scores[1].score, scores[1].response) = (0.6, "<think>\nsix of ten</think>\n0.6".to_string());
    (scores[2].unreadable, scores[2].compliant, scores[2].finish) = (true, Some(false), Some(FinishReason::Length));
    scores.truncate(7);
    let answers = build(&input(spec(), evaluations)).unwrap().answers.unwrap();
    let index = unpack(&answers.index);
    // Right 3, partly right 7, wrong 1, and 57 = wrong, unreadable, truncated and not compliant; the last is missing.
    assert_eq!(index["verdicts"][0], "37i13110");
    assert_eq!(strings(&index["items"]["id"]), ["a-0", "a-1", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7"]);
    // The evaluation that has not run has no answers.
    assert_eq!(index["evaluations"].as_array().unwrap().len(), 7);
    assert_eq!(index["cells"].as_array().unwrap().len(), 4);
    assert_eq!(index["cells"][1]["label"], "sft · CoT");
    let chunk = unpack(&answers.texts[0]);
    let texts = strings(&chunk["strings"]);
    let answer: Vec<i64> = serde_json::from_value(chunk["items"][1]["answers"].clone()).unwrap();
    // Source, prompt, thinking, response, answer, score.
    let [source, prompt, thinking, response, answer, score] = answer[..6] else { panic!("{answer:?}") };
    let text = |index: i64| texts[index as usize];
    assert_eq!((source, text(prompt), score), (0, "How many in a-1?", 600));
    assert_eq!((text(thinking), text(response), text(answer)), ("six of ten", "0.6", "0"));
    assert_eq!(texts.iter().filter(|text| **text == "How many in a-1?").count(), 1);
}

#[test]
fn points_that_share_a_file_share_its_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mut evaluations = study();
    for (index, evaluation) in evaluations.iter_mut().enumerate().filter(|(_, one)| one.scores.is_some()) {
        let path = folder.path().join(format!("{}.jsonl", index / 2));
        ablate_data::jsonl::write(&path, scores_mut(evaluation)).unwrap();
        evaluation.scores = Some(ScoreSource::File(path));
    }
    let answers = build(&input(spec(), evaluations)).unwrap().answers.unwrap();
    let index = unpack(&answers.index);
    assert_eq!((index["evaluations"].as_array().unwrap().len(), index["verdicts"].as_array().unwrap().len()), (7, 4));
    assert_eq!(index["evaluations"][1]["source"], 0);
    let chunk = unpack(&answers.texts[0]);
    assert!(chunk["items"].as_array().unwrap().iter().all(|item| item["answers"].as_array().unwrap().len() == 4 * 6));
}

/// 500 items whose texts do not compress.
fn many<'a>(answer_bytes: usize) -> ReportInput<'a> {
    let mut evaluations = vec![evaluation("model=sft", &[1.0; 500]), evaluation("model=dpo", &[0.0; 500])];
    for (number, evaluation) in evaluations.iter_mut().enumerate() {
        for (item, score) in scores_mut(evaluation).iter_mut().enumerate() {
            let hash = |part: usize| ablate_core::base::Hash::of_bytes(format!("{number} {item} {part}").as_bytes());
            score.response = (0..10).map(|part| hash(part).to_string()).collect();
            score.images = ImageKeys::Leading(format!("image {}", item % 250));
        }
    }
    let image = |key: &str| {
        let hash = ablate_core::base::Hash::of_bytes(key.as_bytes());
        Some([&[0x89, b'P', b'N', b'G'][..], hash.to_string().repeat(8).as_bytes()].concat())
    };
    ReportInput {
        answer_bytes,
        images: Box::new(image),
        ..input(super::support::plain_spec(&["model"], &[]), evaluations)
    }
}

#[test]
fn what_does_not_fit_is_left_out_evenly_and_counted() {
    let all = build(&many(8 << 20)).unwrap().answers.unwrap();
    assert_eq!((all.counts.items_with_texts, all.counts.images, all.counts.all_images), (500, 250, 250));
    let budget = 200_000;
    let some = build(&many(budget)).unwrap().answers.unwrap();
    let size = some.index.len() + some.texts.iter().chain(&some.images).map(String::len).sum::<usize>();
    assert!(size < budget + budget / 20 && size > budget / 2, "{size}");
    assert_eq!((some.counts.answers, some.counts.items), (1_000, 500));
    let count = some.counts.items_with_texts;
    assert!(count > 50 && count < 500 && some.counts.images > 0, "{count} {:?}", some.counts);
    // Every part of the data has texts, and every item keeps its verdicts.
    let index = unpack(&some.index);
    let chunks: Vec<i64> = serde_json::from_value(index["items"]["chunk"].clone()).unwrap();
    assert_eq!(chunks.iter().filter(|chunk| **chunk >= 0).count(), count);
    assert!(chunks.chunks(50).all(|part| part.iter().any(|chunk| *chunk >= 0)));
    let page = build(&many(budget)).unwrap().html();
    assert!(page.contains(&format!("the texts of {count} evenly spaced items only")));
    assert_eq!(page, build(&many(budget)).unwrap().html());
}

#[test]
fn without_room_there_are_no_answers() {
    assert_eq!(build(&many(0)).unwrap().answers, None);
    let report = build(&many(100)).unwrap();
    let counts = &report.answers.as_ref().unwrap().counts;
    assert_eq!((counts.items, counts.items_with_texts, counts.images), (500, 0, 0));
    let empty = ReportInput { evaluations: vec![super::support::not_run("model=sft")], ..many(1 << 20) };
    assert!(!build(&empty).unwrap().html().contains("answer-browser\" hidden"));
}

#[test]
fn a_served_page_has_the_parts_of_the_server() {
    let report = build(&input(spec(), study())).unwrap();
    let served = crate::html::ServedPage { top: "<p id=\"live\">running</p>", scripts: &["/live.js"] };
    let page = report.served_html(&served);
    assert!(page.contains("<main id=\"main\">\n<p id=\"live\">running</p>") && page.contains("src=\"/live.js\""));
    assert!(!page.contains("Content-Security-Policy") && report.html().contains("Content-Security-Policy"));
}
