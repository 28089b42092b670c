//! The frame of a page: its style and script, inline, and the content security policy that allows only them.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::escape::escape;

const STYLE: &str = include_str!("page/page.css");

/// The script of all pages.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/dom.js"),
    include_str!("page/theme.js"),
    include_str!("page/tables.js"),
    include_str!("page/plots.js"),
    include_str!("page/graph.js"),
    include_str!("page/answer_data.js"),
    include_str!("page/answer_filter.js"),
    include_str!("page/answer_view.js"),
    include_str!("page/answers.js"),
    include_str!("page/start.js"),
);

/// The sources of a content security policy that allow the inline script and style of every page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyHashes {
    /// For `script-src`, with its quotes: `'sha256-...'`.
    pub script: String,
    /// For `style-src`.
    pub style: String,
}

/// The hashes that a server adds to its content security policy.
pub fn policy_hashes() -> PolicyHashes {
    let source = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())));
    PolicyHashes { script: source(SCRIPT), style: source(STYLE) }
}

/// Who delivers a page.
pub(super) enum Delivery<'a> {
    /// It is a file: the policy is part of it.
    File,
    /// A server sends the policy, and these scripts.
    Server(&'a [&'a str]),
}

/// A page in the style of reports, for a server that sends its content security policy as a header. `body` is HTML,
/// `scripts` are addresses of scripts of the server.
pub fn document(title: &str, body: &str, scripts: &[&str]) -> String {
    frame(title, body, &Delivery::Server(scripts))
}

pub(super) fn frame(title: &str, body: &str, delivery: &Delivery) -> String {
    let mut text = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    if let Delivery::File = delivery {
        let PolicyHashes { script, style } = policy_hashes();
        _ = writeln!(
            text,
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src {script}; style-src {style}; \
             img-src data: blob:; base-uri 'none'; form-action 'none'\">"
        );
    }
    _ = write!(
        text,
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n<script>{SCRIPT}</script>\n",
        escape(title)
    );
    if let Delivery::Server(scripts) = delivery {
        for script in *scripts {
            _ = writeln!(text, "<script src=\"{}\" defer></script>", escape(script));
        }
    }
    text + "</head>\n<body>\n" + body + "</body>\n</html>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_what_is_between_the_tags() {
        let page = frame("<t>", "<p>body</p>", &Delivery::File);
        let between =
            |open: &str, close: &str| page.split(open).nth(1).unwrap().split(close).next().unwrap().to_string();
        let PolicyHashes { script, style } = policy_hashes();
        assert_eq!(script, format!("'sha256-{}'", STANDARD.encode(Sha256::digest(between("<script>", "</script>")))));
        assert_eq!(style, format!("'sha256-{}'", STANDARD.encode(Sha256::digest(between("<style>", "</style>")))));
        assert!(
            page.contains(&format!("script-src {script}; style-src {style};"))
                && page.contains("<title>&lt;t&gt;</title>")
        );
        // Known from `openssl dgst -sha256 -binary`, of the empty text.
        assert_eq!(STANDARD.encode(Sha256::digest(b"")), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn a_served_page_has_scripts_and_no_policy() {
        let page = document("t", "", &["/live.js", "/\">x"]);
        assert!(!page.contains("Content-Security-Policy"));
        assert!(page.contains("<script src=\"/live.js\" defer></script>") && page.contains("src=\"/&quot;&gt;x\""));
    }
}
