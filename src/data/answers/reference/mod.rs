//! Exact reimplementations of published evaluators, for results that are compared with published ones. They get the
//! response without outer white space, or with chain of thought the text after the marker.
//!
//! | answer type | evaluator |
//! |---|---|
//! | mmbench | VLMEvalKit, `can_infer`: option letters, then option texts |
//! | relaxed | pix2struct, `relaxed_correctness`, as VLMEvalKit and lmms-eval use it for ChartQA |
//! | exact | VLMEvalKit, `accuracy`: equal, ignoring case |
//! | docvqa | the challenge's script for DocVQA and InfoVQA |
//! | vqa-eval | VQAEval of the VQA challenge |
//! | textvqa | EvalAI's evaluator of TextVQA, as in mmf and lmms-eval |
//! | ocrbench | OCRBench's own script |

mod options;
mod python;
mod relaxed;
mod strings;

use crate::records::{AnswerType, Item};

/// Whether an answer type is that of a published evaluator.
pub(super) fn is_reference(answer_type: AnswerType) -> bool {
    match answer_type {
        AnswerType::Letter
        | AnswerType::Number
        | AnswerType::Text
        | AnswerType::Anls
        | AnswerType::Vqa
        | AnswerType::Contains => false,
        AnswerType::Mmbench
        | AnswerType::Relaxed
        | AnswerType::Exact
        | AnswerType::Docvqa
        | AnswerType::VqaEval
        | AnswerType::Textvqa
        | AnswerType::Ocrbench => true,
    }
}

/// The evaluator's score; `None` if the evaluator cannot read the answer, which only `mmbench` reports.
pub(super) fn grade(item: &Item, answer: &str) -> Option<f64> {
    let any = |rule: &dyn Fn(&str) -> bool| Some(f64::from(item.answers.iter().any(|gold| rule(gold))));
    match item.answer_type {
        AnswerType::Mmbench => {
            let letter = options::infer(answer, &item.options)?;
            any(&|gold| gold.trim().chars().eq([letter]))
        }
        AnswerType::Relaxed => any(&|gold| relaxed::correct(gold, answer)),
        AnswerType::Exact => any(&|gold| strings::exact(gold, answer)),
        AnswerType::Docvqa => Some(strings::docvqa(&item.answers, answer)),
        AnswerType::VqaEval => Some(strings::vqa_eval(&item.answers, answer)),
        AnswerType::Textvqa => Some(strings::textvqa(&item.answers, answer)),
        AnswerType::Ocrbench => any(&|gold| strings::ocrbench(&item.dataset, gold, answer)),
        _ => None,
    }
}

/// The canonical form of an answer; `None` if it is the normalized text.
pub(super) fn canonical(item: &Item, answer: &str) -> Option<String> {
    match item.answer_type {
        AnswerType::Mmbench => options::infer(answer, &item.options).map(String::from),
        AnswerType::Relaxed => relaxed::number(answer).map(|value| (value + 0.0).to_string()),
        AnswerType::VqaEval => Some(super::vqa::normalize(answer)),
        AnswerType::Textvqa => Some(strings::normalize_textvqa(answer)),
        _ => None,
    }
}
