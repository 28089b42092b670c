//! The one door by which users' text enters the page. Knows no page.

/// Text for an element or a quoted attribute, whatever it holds.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Controls that HTML does not allow; a model's response may hold any of them.
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push('\u{fffd}'),
            plain => escaped.push(plain),
        }
    }
    escaped
}

/// A data URL of a PNG or JPEG image; none for other bytes.
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
    fn no_text_can_leave_its_place() {
        assert_eq!(
            escape("</td><script>alert('x')</script>\" onload=\"&\u{0}\u{8}\r\n"),
            "&lt;/td&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;&amp;\u{fffd}\u{fffd}\u{fffd}\n"
        );
    }

    #[test]
    fn only_images_become_data_urls() {
        assert_eq!(image_url(&[0x89, b'P', b'N', b'G']).unwrap(), "data:image/png;base64,iVBORw==");
        assert_eq!(image_url(&[0xff, 0xd8, 0xff, 0xe0]).unwrap(), "data:image/jpeg;base64,/9j/4A==");
        assert_eq!((image_url(b"<svg onload=alert(1)>"), image_url(b"")), (None, None));
    }
}
