//! What made a report, at the end of the page. Long lists are folded.

use std::fmt::Write;

use super::escape::escape;
use crate::made_by::{Axis, Command, ExternalInput, MadeBy};
use crate::text_table::thousands;

/// Longest list that is not folded.
const MAX_OPEN: usize = 6;

/// Empty without facts.
pub(super) fn render(made_by: &MadeBy) -> String {
    let general = pairs(made_by.general_facts().into_iter());
    let values = made_by.varies.iter().map(|Axis { axis, values }| (axis.clone(), values.join(", ")));
    let text = general
        + &list("Values", made_by.varies.len(), &pairs(values))
        + &list("Data", made_by.inputs.len(), &data(&made_by.inputs))
        + &list("Commands that make the numbers again", made_by.commands.len(), &commands(&made_by.commands));
    if text.is_empty() { text } else { format!("<h2>What made this page</h2>{text}") }
}

fn list(title: &str, count: usize, body: &str) -> String {
    if count == 0 {
        return String::new();
    }
    let open = if count <= MAX_OPEN { " open" } else { "" };
    let count = thousands(count as u64);
    format!("<details{open}><summary>{title}<small>{count}</small></summary>{body}</details>")
}

/// Names with their values. Empty without any.
fn pairs(pairs: impl Iterator<Item = (String, String)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        _ = write!(text, "<dt>{}</dt><dd>{}</dd>", escape(&name), escape(&value));
    }
    if text.is_empty() { text } else { format!("<dl>{text}</dl>") }
}

fn data(inputs: &[ExternalInput]) -> String {
    let mut text = String::from(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"data\"><table class=\"dense sortable\"><thead><tr>\
         <th scope=\"col\">file or folder</th><th scope=\"col\" class=\"num\">bytes</th><th scope=\"col\">hash</th>\
         <th scope=\"col\">read by</th></tr></thead><tbody>",
    );
    for ExternalInput { path, hash, size, read_by } in inputs {
        _ = write!(
            text,
            "<tr><th scope=\"row\">{}</th><td class=\"num\">{}</td><td><code title=\"{hash}\">{}</code></td><td>{}</td></tr>",
            escape(path),
            size.map_or_else(|| "changed since".to_string(), thousands),
            hash.short(),
            escape(&read_by.join(", "))
        );
    }
    text + "</tbody></table></div>"
}

fn commands(commands: &[Command]) -> String {
    let mut text = String::from("<dl>");
    for Command { makes, command } in commands {
        _ = write!(text, "<dt>{}</dt><dd><code>{}</code></dd>", escape(makes), escape(command));
    }
    text + "</dl>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::Hash;

    #[test]
    fn long_lists_are_folded_and_texts_escaped() {
        assert_eq!(render(&MadeBy::default()), "");
        let input = |number: usize| ExternalInput {
            path: format!("data/<{number}>.jsonl"),
            hash: Hash::of_bytes(&number.to_le_bytes()),
            size: (number > 0).then_some(1_234_567),
            read_by: vec!["<items>".to_string(), "mix".to_string()],
        };
        let made = |count: usize| MadeBy { inputs: (0..count).map(input).collect(), ..MadeBy::default() };
        let few = render(&made(MAX_OPEN));
        assert!(few.contains("<details open><summary>Data<small>6</small>"), "{few}");
        assert!(few.contains("data/&lt;0&gt;.jsonl") && few.contains("&lt;items&gt;, mix") && !few.contains("<items>"));
        assert!(few.contains("changed since") && few.contains("1,234,567"));
        assert!(render(&made(60)).contains("<details><summary>Data<small>60</small>"));
    }
}
