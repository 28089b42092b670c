//! Classifies failed requests: whether to retry, and whether the error is the user's ([`wrong_input`]).
//!
//! A user's error occurs again until the experiment is changed. Every other error has an external cause.

use std::time::Duration;

use anyhow::anyhow;
use ureq::http::StatusCode;

use ablate_core::base::wrong_input;

/// A failed attempt.
pub(super) enum Failure {
    /// A retry may succeed, after `pause` if the server asked for one.
    Retryable {
        error: anyhow::Error,
        pause: Option<Duration>,
    },
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
        // The endpoint rejects the URL, the model, the parameters or the prompt.
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
pub(super) fn from_transport(url: &str, error: &ureq::Error) -> Failure {
    use std::io::ErrorKind;
    let message = anyhow!("cannot reach the endpoint at `{url}`: {error}");
    match error {
        // rustls reports a rejected certificate as invalid data.
        ureq::Error::Io(cause) if cause.kind() == ErrorKind::InvalidData => Failure::Permanent(tls_error(url, cause)),
        ureq::Error::Rustls(cause) => Failure::Permanent(tls_error(url, cause)),
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Protocol(_)
        | ureq::Error::BodyStalled => Failure::Retryable { error: message, pause: None },
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Permanent(wrong_input(message)),
        _ => Failure::Permanent(message),
    }
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
            Failure::Retryable { .. } => "retryable input",
            Failure::Permanent(_) => "input",
        }
    }

    #[test]
    fn status_codes_are_classified() {
        for (expected, statuses) in [
            ("retryable", vec![408, 409, 425, 429, 500, 502, 503, 504, 529]),
            ("external", vec![401, 402, 403, 407]),
            ("input", vec![301, 302, 303, 307, 308, 400, 404, 405, 410, 413, 415, 422]),
        ] {
            for status in statuses {
                assert_eq!(class(status, ""), expected, "{status}");
            }
        }
        assert_eq!(class(429, r#"{"error": {"code": "insufficient_quota"}}"#), "external");
    }

    #[test]
    fn connection_failures_are_classified() {
        use std::io::{Error, ErrorKind};
        let class = |error: ureq::Error| match from_transport("http://x", &error) {
            Failure::Retryable { error, .. } => ("retryable", ErrorChain::of(&error).input),
            Failure::Permanent(error) => ("permanent", ErrorChain::of(&error).input),
        };
        assert_eq!(class(ureq::Error::HostNotFound), ("retryable", false));
        assert_eq!(class(ureq::Error::ConnectionFailed), ("retryable", false));
        assert_eq!(class(Error::from(ErrorKind::ConnectionRefused).into()), ("retryable", false));
        assert_eq!(class(Error::from(ErrorKind::UnexpectedEof).into()), ("retryable", false));
        assert_eq!(
            class(Error::new(ErrorKind::InvalidData, "invalid peer certificate: Expired").into()),
            ("permanent", false)
        );
        assert_eq!(class(ureq::Error::BodyExceedsLimit(1)), ("permanent", false));
        assert_eq!(class(ureq::Error::BadUri("x".into())), ("permanent", true));
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
