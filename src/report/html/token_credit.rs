//! Responses as HTML, with every token colored by its log-ratio (paper 5.7).

use std::fmt::Write;

use super::escape::escape;
use super::responses;
use crate::token_credit::{CreditMap, CreditedPair};
use ablate_data::records::CreditedResponse;
use ablate_data::token_credit::lowest;

/// The strongest color, class `c14`: that of the token with the largest absolute log-ratio of a question.
const STRONGEST: f32 = 14.0;

pub(super) fn render(maps: &[CreditMap]) -> String {
    if maps.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "<p class=\"sub\">Log-ratio of each token: log-probability of the policy minus that of the reference, in nats. \
         <span class=\"credit plus c12\">Green</span>: positive. \
         <span class=\"credit minus c12\">Red</span>: negative. \
         <span class=\"credit lowest\">Outlined</span>: the lowest of the response. \
         Shown are the first correct and the first incorrect response of the first questions that have both. \
         Colors are comparable within a question.</p>",
    );
    for (index, map) in maps.iter().enumerate() {
        let open = if index == 0 { " open" } else { "" };
        _ = write!(text, "<details{open}><summary><code>{}</code></summary>", escape(&map.instance));
        for question in &map.questions {
            text.push_str(&render_question(question));
        }
        text.push_str("</details>");
    }
    text
}

fn render_question(pair: &CreditedPair) -> String {
    let ratios = [&pair.right, &pair.wrong].into_iter().flat_map(|credit| &credit.tokens).map(|(_, ratio)| ratio.abs());
    let largest = ratios.fold(0.0, f32::max);
    let body = format!(
        "<div class=\"pair\">{}{}</div>",
        render_response(&pair.right, "correct", "<span class=\"up\">✓</span>", largest),
        render_response(&pair.wrong, "incorrect", "<span class=\"down\">✗</span>", largest)
    );
    responses::article(&pair.images, &pair.id, &pair.dataset, &pair.prompt, &pair.gold, &body)
}

fn render_response(credit: &CreditedResponse, label: &str, mark: &str, largest: f32) -> String {
    let lowest = lowest(credit);
    let mut tokens = String::new();
    for (index, (piece, ratio)) in credit.tokens.iter().enumerate() {
        let sign = if *ratio < 0.0 { "minus" } else { "plus" };
        let outline = if lowest == Some(index) { " lowest" } else { "" };
        let strength = if largest > 0.0 { STRONGEST * ratio.abs() / largest } else { 0.0 };
        _ = write!(
            tokens,
            "<span class=\"credit {sign}{outline} c{strength:.0}\" title=\"{ratio:+.3}\">{}</span>",
            escape(piece)
        );
    }
    let mut remarks = vec![match &credit.verdict.answer {
        Some(answer) => format!("answer <code>{}</code>", escape(answer)),
        None => "no answer found".to_string(),
    }];
    remarks.push(format!("log-ratio {:+.3}", credit.log_ratio));
    if let Some((piece, ratio)) = lowest.map(|index| &credit.tokens[index]) {
        remarks.push(format!("lowest <code>{}</code> {ratio:+.3}", escape(piece)));
    }
    responses::response(label, mark, "", &tokens, &remarks)
}
