//! The browser of all answers: its form, and the packed answers that its script reads.

use std::fmt::Write;

use crate::answers::{Answers, Counts};
use crate::text_table::thousands;

/// The form. Its script fills in the cells and data sets.
const FORM: &str = "<form aria-label=\"filter of the answers\" autocomplete=\"off\">\
<label>Answers of <select name=\"cell\"></select></label>\
<label>compared with <select name=\"with\"></select></label>\
<label>flips <select name=\"flip\"><option value=\"\">all</option><option value=\"gained\">right, and wrong in the other</option>\
<option value=\"lost\">wrong, and right in the other</option><option value=\"either\">right in one of them</option></select></label>\
<label>data set <select name=\"dataset\"></select></label>\
<label>verdict <select name=\"verdict\"><option value=\"\">all</option><option value=\"right\">right (score 0.5 or more)</option>\
<option value=\"wrong\">wrong (score below 0.5)</option><option value=\"partly\">partly right (between 0 and 1)</option></select></label>\
<label>text <input type=\"search\" name=\"q\"></label>\
<label class=\"check\"><input type=\"checkbox\" name=\"unreadable\"> unreadable</label>\
<label class=\"check\"><input type=\"checkbox\" name=\"truncated\"> truncated</label>\
<label class=\"check\"><input type=\"checkbox\" name=\"form\"> not in the prompt's format</label>\
<label class=\"check\"><input type=\"checkbox\" name=\"texts\" checked> only with texts</label>\
<button type=\"reset\">Reset</button></form>";

/// Empty without answers.
pub(super) fn render(answers: Option<&Answers>) -> String {
    let Some(answers) = answers else { return String::new() };
    let mut text = format!(
        "<p class=\"sub\">{}</p><p class=\"needs-script\">The browser of the answers needs the script of this page.</p>\
         <div id=\"answer-browser\" hidden>{FORM}<p><output aria-live=\"polite\"></output></p><ol></ol>\
         <nav aria-label=\"pages of answers\"><button type=\"button\" value=\"-1\">Previous</button>\
         <button type=\"button\" value=\"1\">Next</button></nav></div>",
        about(&answers.counts)
    );
    let mut embed = |id: &str, data: &str| {
        _ = writeln!(text, "<script type=\"application/octet-stream\" id=\"answers-{id}\">{data}</script>");
    };
    embed("index", &answers.index);
    for (number, chunk) in answers.texts.iter().enumerate() {
        embed(&format!("texts-{number}"), chunk);
    }
    for (number, chunk) in answers.images.iter().enumerate() {
        embed(&format!("images-{number}"), chunk);
    }
    text
}

/// How much of the answers is on the page.
fn about(counts: &Counts) -> String {
    let number = |count: usize| thousands(count as u64);
    let mut text = format!("{} answers to {} items.", number(counts.all_answers), number(counts.all_items));
    if counts.answers < counts.all_answers {
        text += &format!(
            " The page has the verdicts on {} of them, to {} evenly spaced items.",
            number(counts.answers),
            number(counts.items)
        );
    }
    if counts.items_with_texts < counts.all_items {
        text += &format!(
            " To keep the page small, it has the texts of {} evenly spaced items only.",
            number(counts.items_with_texts)
        );
    }
    if counts.images < counts.all_images {
        text +=
            &format!(" It has {} of the {} images of these items.", number(counts.images), number(counts.all_images));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let all = Counts {
            answers: 40,
            all_answers: 40,
            items: 20,
            all_items: 20,
            items_with_texts: 20,
            images: 0,
            all_images: 0,
        };
        assert_eq!(about(&all), "40 answers to 20 items.");
        let some = Counts { answers: 30, items: 15, items_with_texts: 5, images: 1, all_images: 4, ..all };
        assert_eq!(
            about(&some),
            "40 answers to 20 items. The page has the verdicts on 30 of them, to 15 evenly spaced items. To keep the page small, \
             it has the texts of 5 evenly spaced items only. It has 1 of the 4 images of these items."
        );
    }
}
