//! Classifies failed requests: whether to retry, and whether the error is the user's ([`wrong_input`]).
//!
//! A user's error occurs again until the experiment is changed. Every other error has an external cause.

use std::error::Error;
use std::io;
use std::time::Duration;

use anyhow::anyhow;
use reqwest::StatusCode;

use ablate_core::base::wrong_input;

/// A failed attempt.
pub(super) enum Failure {
    /// A retry may succeed, after `pause` if the server asked for one.
    Retryable { error: anyhow::Error, pause: Option<Duration> },
    /// The endpoint rejects the content of this request, and may accept others.
    Rejected(anyhow::Error),
    /// The endpoint would reject every request.
    Permanent(anyhow::Error),
}

/// A response with an error status. The API key is masked in its texts.
pub(super) struct ErrorResponse<'a> {
    pub(super) status: StatusCode,
    /// Target of a redirect.
    pub(super) location: Option<String>,
    /// The pause that the server asks for.
    pub(super) pause: Option<Duration>,
    pub(super) text: &'a str,
}

/// Classifies an error status.
pub(super) fn from_status(url: &str, key_env: Option<&str>, response: &ErrorResponse<'_>) -> Failure {
    let ErrorResponse { status, location, pause, text } = response;
    let error = anyhow!("the endpoint at `{url}` returned {status}: {}", first_line(text));
    match status.as_u16() {
        300..=399 => Failure::Permanent(wrong_input(redirect(url, *status, location.as_deref()))),
        // A retry does not refill the account.
        429 if text.contains("insufficient_quota") => Failure::Permanent(error),
        408 | 409 | 425 | 429 | 500..=599 => Failure::Retryable { error, pause: *pause },
        401 | 403 | 407 => {
            let help = match key_env {
                Some(name) => format!("help: the endpoint rejects the API key in `{name}`"),
                None => {
                    "help: no API key was sent; set `key_env` to the name of the environment variable that contains it"
                        .to_string()
                }
            };
            Failure::Permanent(anyhow!("{error}\n{help}"))
        }
        402 => Failure::Permanent(error),
        // The endpoint rejects the parameters or the prompt.
        400 | 413 | 422 => Failure::Rejected(wrong_input(error)),
        // The endpoint rejects the URL or the model.
        _ => Failure::Permanent(wrong_input(error)),
    }
}

fn redirect(url: &str, status: StatusCode, location: Option<&str>) -> anyhow::Error {
    let Some(location) = location else {
        return anyhow!("the endpoint at `{url}` returned {status}, a redirect without a target");
    };
    let base = location.trim_end_matches('/').trim_end_matches("/chat/completions");
    let help = if base.starts_with("http://") || base.starts_with("https://") {
        format!("\nhelp: if the endpoint has moved there, write `url = \"{base}\"`")
    } else {
        String::new()
    };
    anyhow!("the endpoint at `{url}` returned {status}, a redirect to `{location}`; redirects are not followed{help}")
}

/// Classifies a failure of the connection.
pub(super) fn from_transport(url: &str, error: &reqwest::Error) -> Failure {
    let causes = causes(error);
    // The last cause is the reason. The ones before it say only that the request was not sent.
    let reason = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
    if let Some(cause) = causes.iter().find(|cause| is_tls_error(**cause)) {
        return Failure::Permanent(tls_error(url, *cause));
    }
    if error.is_builder() {
        return Failure::Permanent(wrong_input(anyhow!("cannot send a request to `{url}`: {reason}")));
    }
    let reason = if error.is_timeout() { "it did not answer in time".to_string() } else { reason };
    let error = anyhow!("cannot reach the endpoint at `{url}`: {reason}");
    Failure::Retryable { error, pause: None }
}

/// Whether an error, or the one that an input or output error holds, is of TLS.
fn is_tls_error(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<rustls::Error>()
        || cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| is_tls_error(inner))
}

/// The causes of an error, without the error itself.
fn causes(error: &reqwest::Error) -> Vec<&(dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

fn tls_error(url: &str, cause: &dyn std::fmt::Display) -> anyhow::Error {
    let cause = cause.to_string();
    let help = if cause.contains("certificate") {
        "\nhelp: set `SSL_CERT_FILE` to a file with the certificates to trust"
    } else {
        ""
    };
    anyhow!("no secure connection to the endpoint at `{url}`: {cause}{help}")
}

/// The first line that is not blank, at most 300 characters.
pub(super) fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("(no text)");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::ErrorChain;

    /// How a status is classified.
    fn class(status: u16, text: &str) -> &'static str {
        let status = StatusCode::from_u16(status).unwrap();
        match from_status("http://x", None, &ErrorResponse { status, location: None, pause: None, text }) {
            Failure::Retryable { error, .. } if !ErrorChain::of(&error).input => "retryable",
            Failure::Permanent(error) if !ErrorChain::of(&error).input => "external",
            Failure::Rejected(error) if ErrorChain::of(&error).input => "rejected",
            Failure::Permanent(_) => "input",
            Failure::Retryable { .. } | Failure::Rejected(_) => "wrong mark",
        }
    }

    #[test]
    fn status_codes_are_classified() {
        for (expected, statuses) in [
            ("retryable", vec![408, 409, 425, 429, 500, 502, 503, 504, 529]),
            ("external", vec![401, 402, 403, 407]),
            ("rejected", vec![400, 413, 422]),
            ("input", vec![301, 302, 303, 307, 308, 404, 405, 410, 415]),
        ] {
            for status in statuses {
                assert_eq!(class(status, ""), expected, "{status}");
            }
        }
        assert_eq!(class(429, r#"{"error": {"code": "insufficient_quota"}}"#), "external");
    }

    #[test]
    fn redirect_error_shows_target_and_fix() {
        let message =
            |location: Option<&str>| redirect("http://a/v1/chat/completions", StatusCode::FOUND, location).to_string();
        assert_eq!(
            message(Some("https://b/v2/chat/completions")),
            "the endpoint at `http://a/v1/chat/completions` returned 302 Found, a redirect to \
             `https://b/v2/chat/completions`; redirects are not followed\n\
             help: if the endpoint has moved there, write `url = \"https://b/v2\"`"
        );
        assert_eq!(
            message(Some("/login")),
            "the endpoint at `http://a/v1/chat/completions` returned 302 Found, a redirect to `/login`; redirects are not \
             followed"
        );
        assert_eq!(
            message(None),
            "the endpoint at `http://a/v1/chat/completions` returned 302 Found, a redirect without a target"
        );
    }
}
