//! Items as HTML: images, question, gold answer, and the responses of the cells.

use std::fmt::Write;

use super::escape::{escape, image_url};
use crate::disagreements::{Disagreement, RIGHT, Response, Sample};
use crate::text_table;

/// A disagreement, unfolded if `open`.
pub(super) fn render(group: &Disagreement, open: bool) -> String {
    let share = text_table::percent(group.count as f64 / group.of.max(1) as f64);
    let seed = if group.seed.is_empty() { String::new() } else { format!(", seed {}", escape(&group.seed)) };
    let mut text = format!(
        "<details{}><summary>{} right, {} wrong<small>{} of {} items ({share} %{seed})</small></summary>",
        if open { " open" } else { "" },
        escape(&group.right),
        escape(&group.wrong),
        text_table::thousands(group.count as u64),
        text_table::thousands(group.of as u64),
    );
    for sample in &group.samples {
        text.push_str(&render_sample(sample));
    }
    text.push_str("</details>");
    text
}

fn render_sample(sample: &Sample) -> String {
    let mut body =
        format!("<div class=\"pair\">{}{}</div>", render_response(&sample.right), render_response(&sample.wrong));
    if !sample.others.is_empty() {
        body.push_str("<ul class=\"chips\" aria-label=\"other cells\">");
        for other in &sample.others {
            let (mark, class) = mark(other);
            _ = write!(
                body,
                "<li>{} <span class=\"{class}\">{mark} {}</span></li>",
                escape(&other.label),
                escape(other.answer.as_deref().unwrap_or("no answer"))
            );
        }
        body.push_str("</ul>");
    }
    article(&sample.images, &sample.id, &sample.dataset, &sample.prompt, &sample.gold, &body)
}

/// A question with its images. `body` is HTML.
pub(super) fn article(
    images: &[Vec<u8>],
    id: &str,
    dataset: &str,
    prompt: &str,
    gold: &[String],
    body: &str,
) -> String {
    let urls: Vec<String> = images.iter().filter_map(|image| image_url(image)).collect();
    let image = |url: &String| format!("<img alt=\"image of {}\" src=\"{url}\">", escape(id));
    let image = match &urls[..] {
        [] => "<div class=\"none\"></div>".to_string(),
        [url] => image(url),
        urls => format!("<div class=\"images\">{}</div>", urls.iter().map(image).collect::<String>()),
    };
    let gold: Vec<String> = gold.iter().map(|gold| format!("<code>{}</code>", escape(gold))).collect();
    format!(
        "<article class=\"sample\">{image}<div><p class=\"question\">{}</p><p class=\"sub\">gold {} · {} · {}</p>{body}</div></article>",
        escape(prompt),
        gold.join(" or "),
        escape(dataset),
        escape(id)
    )
}

fn render_response(response: &Response) -> String {
    let (mark, class) = mark(response);
    let mut remarks = vec![match &response.answer {
        Some(answer) if response.unreadable => format!("answer <code>{}</code> could not be read", escape(answer)),
        Some(answer) => format!("answer <code>{}</code>", escape(answer)),
        None if response.compliant.is_none() => "scored by a program".to_string(),
        None => "no answer found".to_string(),
    }];
    if response.score > 0.0 && response.score < 1.0 {
        remarks.push(format!("score {:.2}", response.score));
    }
    if response.truncated {
        remarks.push("truncated at the token limit".to_string());
    } else if response.compliant == Some(false) {
        remarks.push("not in the prompt's format".to_string());
    }
    let empty = if response.text.trim().is_empty() { "(empty response)" } else { "" };
    let text = escape(&response.text) + empty;
    self::response(&response.label, &format!("<span class=\"{class}\">{mark}</span>"), &text, &remarks)
}

/// A response. `mark`, `text` and `remarks` are HTML.
pub(super) fn response(label: &str, mark: &str, text: &str, remarks: &[String]) -> String {
    format!(
        "<section class=\"response\" style=\"margin:0\"><header><span>{}</span>{mark}</header><pre tabindex=\"0\">{text}</pre><p>{}</p></section>",
        escape(label),
        remarks.join(" · ")
    )
}

fn mark(response: &Response) -> (&'static str, &'static str) {
    if response.score >= RIGHT { ("✓", "up") } else { ("✗", "down") }
}
