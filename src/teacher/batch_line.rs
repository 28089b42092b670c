//! One line of a file of results.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::batch_client::ResultLine;
use ablate_core::base::Hash;

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Result(Hash, LineResult),
    /// Its id is not one of ablate.
    Unknown,
    /// It is not a result.
    Unreadable,
}

/// The result of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LineResult {
    /// The body of a successful response.
    Body(Vec<u8>),
    /// The line is longer than the tokens of the reply can explain.
    TooLong,
    /// The endpoint rejects the content of this request.
    Rejected(String),
    /// The request has no reply, and is sent again.
    Unanswered(String),
}

#[derive(Deserialize)]
struct LineBody {
    custom_id: String,
    response: Option<LineResponse>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct LineResponse {
    status_code: u16,
    #[serde(default)]
    body: Value,
}

impl Line {
    pub(super) fn parse(line: &ResultLine) -> Line {
        if line.cut {
            return cut_id(&line.bytes).map_or(Line::Unreadable, |id| Line::Result(id, LineResult::TooLong));
        }
        let Ok(LineBody { custom_id, response, error }) = serde_json::from_slice(&line.bytes) else {
            return Line::Unreadable;
        };
        let Ok(id) = custom_id.parse() else { return Line::Unknown };
        let result = match response {
            Some(LineResponse { status_code: 200..=299, body }) => LineResult::Body(body.to_string().into_bytes()),
            Some(LineResponse { status_code, body }) => {
                let status =
                    StatusCode::from_u16(status_code).map_or(status_code.to_string(), |status| status.to_string());
                let text = format!("the endpoint returned {status}: {body}");
                match status_code {
                    // The account, a limit or a failure of the endpoint, and not the content of the request.
                    401 | 402 | 403 | 407 | 408 | 409 | 425 | 429 => LineResult::Unanswered(text),
                    400..=499 => LineResult::Rejected(text),
                    _ => LineResult::Unanswered(text),
                }
            }
            None => {
                LineResult::Unanswered(error.map_or("a line without a response".to_string(), |error| error.to_string()))
            }
        };
        Line::Result(id, result)
    }
}

/// The id in the beginning of a line.
fn cut_id(bytes: &[u8]) -> Option<Hash> {
    let text = String::from_utf8_lossy(bytes);
    let value = text.split_once("\"custom_id\"")?.1.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    value.split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Line {
        Line::parse(&ResultLine { bytes: value.to_string().into_bytes(), cut: false, is_open: false })
    }

    #[test]
    fn lines_are_classified_by_status() {
        let id = Hash::of_bytes(b"a");
        let class = |status: u16| {
            let line =
                json!({ "custom_id": id, "response": { "status_code": status, "body": { "b": 1 } }, "error": null });
            match parse(&line) {
                Line::Result(of, result) if of == id => result,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(class(200), LineResult::Body(b"{\"b\":1}".to_vec()));
        for status in [400, 404, 413, 422] {
            assert!(matches!(class(status), LineResult::Rejected(_)), "{status}");
        }
        for status in [401, 403, 408, 429, 500, 503] {
            assert!(matches!(class(status), LineResult::Unanswered(_)), "{status}");
        }
        assert_eq!(class(400), LineResult::Rejected("the endpoint returned 400 Bad Request: {\"b\":1}".into()));
        let expired = json!({ "custom_id": id, "response": null, "error": { "code": "batch_expired" } });
        assert_eq!(parse(&expired), Line::Result(id, LineResult::Unanswered("{\"code\":\"batch_expired\"}".into())));
    }

    #[test]
    fn foreign_broken_and_long_lines_are_told_apart() {
        assert_eq!(parse(&json!({ "custom_id": "mine-1", "response": null })), Line::Unknown);
        assert_eq!(parse(&json!([1])), Line::Unreadable);
        let id = Hash::of_bytes(b"a");
        let cut = |text: String| Line::parse(&ResultLine { bytes: text.into_bytes(), cut: true, is_open: false });
        assert_eq!(cut(format!("{{\"id\": 1, \"custom_id\": \"{id}\", \"resp")), Line::Result(id, LineResult::TooLong));
        assert_eq!(cut("{\"response\": {".into()), Line::Unreadable);
    }
}
