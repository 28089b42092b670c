//! Items as HTML: images, question, gold answer, and the responses of the cells.

use std::fmt::Write;

use super::escape::{escape, image_url};
use crate::disagreements::{Disagreement, RIGHT, Response, Sample};
use crate::text_table;
use crate::thinking;
use crate::thumbnails::thumbnail;

/// Longest side of an image in pixels.
const SIDE: u32 = 352;

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
    let urls: Vec<String> = images.iter().filter_map(|image| image_url(&thumbnail(image, SIDE)?)).collect();
    let image = |url: &String| format!("<img alt=\"image of {}\" src=\"{url}\">", escape(id));
    let image = match &urls[..] {
        [] => String::new(),
        [url] => image(url),
        urls => format!("<div class=\"images\">{}</div>", urls.iter().map(image).collect::<String>()),
    };
    let gold: Vec<String> = gold.iter().map(|gold| format!("<code>{}</code>", escape(gold))).collect();
    format!(
        "<article class=\"{}\">{image}<div><p class=\"question\" dir=\"auto\">{}</p><p class=\"sub\">gold {} · {} · {}</p>{body}</div></article>",
        if urls.is_empty() { "sample plain" } else { "sample" },
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
    let (thinking, text) = thinking::split(&response.text);
    let text = if text.trim().is_empty() { "(empty response)".to_string() } else { escape(text) };
    self::response(
        &response.label,
        &format!("<span class=\"{class}\">{mark}</span>"),
        &folded(thinking),
        &text,
        &remarks,
    )
}

/// Folded thinking. Empty without any.
fn folded(thinking: &str) -> String {
    if thinking.is_empty() {
        return String::new();
    }
    format!(
        "<details class=\"thinking\"><summary>thinking</summary><pre tabindex=\"0\" dir=\"auto\">{}</pre></details>",
        escape(thinking)
    )
}

/// A response. `mark`, `thinking`, `text` and `remarks` are HTML.
pub(super) fn response(label: &str, mark: &str, thinking: &str, text: &str, remarks: &[String]) -> String {
    format!(
        "<section class=\"response\"><header><span>{}</span>{mark}</header>{thinking}<pre tabindex=\"0\" dir=\"auto\">{text}</pre><p>{}</p></section>",
        escape(label),
        remarks.join(" · ")
    )
}

fn mark(response: &Response) -> (&'static str, &'static str) {
    if response.score >= RIGHT { ("✓", "up") } else { ("✗", "down") }
}
