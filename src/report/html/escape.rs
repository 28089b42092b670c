//! Escapes text for HTML. All text from users and data passes through [`escape`].

/// Escapes a text for an element or a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // HTML does not allow other control characters.
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push('\u{fffd}'),
            plain => escaped.push(plain),
        }
    }
    escaped
}

/// Escapes a text, and renders parts between backticks as code.
pub(super) fn code(text: &str) -> String {
    let parts: Vec<String> = text.split('`').map(escape).collect();
    let mut html = String::new();
    for (index, part) in parts.iter().enumerate() {
        match (index % 2, index + 1 == parts.len()) {
            (0, _) => html.push_str(part),
            // A backtick without a closing one is kept.
            (_, true) => html.extend(["`", part]),
            _ => html.extend(["<code>", part, "</code>"]),
        }
    }
    html
}

/// The text with a capital first letter.
pub(super) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}", characters.as_str())
}

/// The data URL of a PNG or JPEG image. None for other bytes.
pub(super) fn image_url(bytes: &[u8]) -> Option<String> {
    use base64::Engine;
    let kind = match bytes {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, 0xff, ..] => "jpeg",
        _ => return None,
    };
    Some(format!("data:image/{kind};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(
            escape("</td><script>alert('x')</script>\" onload=\"&\u{0}\u{8}\r\n"),
            "&lt;/td&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;&amp;\u{fffd}\u{fffd}\u{fffd}\n"
        );
    }

    #[test]
    fn pairs_of_backticks_become_code() {
        assert_eq!(code("not run: `a<b` and ` alone"), "not run: <code>a&lt;b</code> and ` alone");
    }

    #[test]
    fn only_images_become_data_urls() {
        assert_eq!(image_url(&[0x89, b'P', b'N', b'G']).unwrap(), "data:image/png;base64,iVBORw==");
        assert_eq!(image_url(&[0xff, 0xd8, 0xff, 0xe0]).unwrap(), "data:image/jpeg;base64,/9j/4A==");
        assert_eq!((image_url(b"<svg onload=alert(1)>"), image_url(b"")), (None, None));
    }
}
