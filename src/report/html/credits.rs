//! The credit map of the page: responses with every token colored by its log-ratio (paper 5.7). Picks nothing.

use std::fmt::Write;

use super::escape::escape;
use super::samples;
use crate::credits::{CreditMap, CreditedPair};
use ablate_data::records::CreditedResponse;
use ablate_data::token_credit::lowest;

/// Share of a color that the strongest token of a question has.
const STRONGEST: f32 = 70.0;

/// All maps; empty when there is none.
pub(super) fn render(maps: &[CreditMap]) -> String {
    if maps.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "<p class=\"sub\">How much likelier the policy finds each token than its reference does, in nats: \
         <span class=\"credit plus\" style=\"--share:60%\">green</span> likelier, \
         <span class=\"credit minus\" style=\"--share:60%\">red</span> less likely, \
         <span class=\"credit lowest\">framed</span> the lowest token of the response. \
         The first right and the first wrong response of the first questions that have both; \
         colors are comparable within a question.</p>",
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
    let strongest = ratios.fold(0.0, f32::max);
    let body = format!(
        "<div class=\"pair\">{}{}</div>",
        render_response(&pair.right, "right", "<span class=\"up\">✓</span>", strongest),
        render_response(&pair.wrong, "wrong", "<span class=\"down\">✗</span>", strongest)
    );
    samples::article(pair.image.as_deref(), &pair.id, &pair.dataset, &pair.prompt, &pair.gold, &body)
}

fn render_response(credit: &CreditedResponse, label: &str, mark: &str, strongest: f32) -> String {
    let lowest = lowest(credit);
    let mut tokens = String::new();
    for (index, (piece, ratio)) in credit.tokens.iter().enumerate() {
        let sign = if *ratio < 0.0 { "minus" } else { "plus" };
        let frame = if lowest == Some(index) { " lowest" } else { "" };
        let share = if strongest > 0.0 { STRONGEST * ratio.abs() / strongest } else { 0.0 };
        _ = write!(
            tokens,
            "<span class=\"credit {sign}{frame}\" style=\"--share:{share:.0}%\" title=\"{ratio:+.3}\">{}</span>",
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
    samples::response(label, mark, &tokens, &remarks)
}
