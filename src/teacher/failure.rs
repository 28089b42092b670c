//! What a failed request means: whether another try may help, and who has to do something about it. Sends nothing.
//!
//! An error that is marked as the user's ([`wrong_input`]) is one that the same request meets again until the
//! experiment has changed. Every other one is a failure of the world.

use std::time::Duration;

use anyhow::anyhow;
use ureq::http::StatusCode;

use ablate_core::base::wrong_input;

/// Why a try failed.
pub(super) enum Failure {
    /// Another try may succeed; after this pause, if the server asked for one.
    Passing {
        error: anyhow::Error,
        pause: Option<Duration>,
    },
    Final(anyhow::Error),
}

/// A response whose status is not one of success. The key is masked in it.
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    /// Where a redirect leads.
    pub(super) location: Option<String>,
    /// How long the server asks to wait.
    pub(super) pause: Option<Duration>,
    pub(super) text: &'a str,
}

/// What a status means.
pub(super) fn of_status(url: &str, key_env: Option<&str>, answer: &Answer<'_>) -> Failure {
    let Answer { status, location, pause, text } = answer;
    let said = anyhow!("the endpoint at `{url}` said {status}: {}", first_line(text));
    match status.as_u16() {
        300..=399 => Failure::Final(wrong_input(redirect(url, *status, location.as_deref()))),
        // Waiting does not fill an account.
        429 if text.contains("insufficient_quota") => Failure::Final(said),
        408 | 409 | 425 | 429 | 500..=599 => Failure::Passing { error: said, pause: *pause },
        401 | 403 | 407 => {
            let help = match key_env {
                Some(name) => format!("help: it does not accept the key in `{name}`"),
                None => "help: no key was sent: `key_env` names the environment variable that holds one".to_string(),
            };
            Failure::Final(anyhow!("{said}\n{help}"))
        }
        402 => Failure::Final(said),
        // The address, the model, the parameters or the question are not what the endpoint takes.
        _ => Failure::Final(wrong_input(said)),
    }
}

fn redirect(url: &str, status: StatusCode, location: Option<&str>) -> anyhow::Error {
    let Some(location) = location else {
        return anyhow!("the endpoint at `{url}` said {status}, a redirect, without a target");
    };
    let base = location.trim_end_matches('/').trim_end_matches("/chat/completions");
    let help = if base.starts_with("http://") || base.starts_with("https://") {
        format!("\nhelp: if the endpoint is there, write `url = \"{base}\"`")
    } else {
        String::new()
    };
    anyhow!("the endpoint at `{url}` said {status}: it redirects to `{location}`, and redirects are not followed{help}")
}

/// What a failure of the connection means.
pub(super) fn of_transport(url: &str, error: &ureq::Error) -> Failure {
    use std::io::ErrorKind;
    let told = anyhow!("cannot reach the endpoint at `{url}`: {error}");
    match error {
        // What rustls refuses comes as invalid data.
        ureq::Error::Io(cause) if cause.kind() == ErrorKind::InvalidData => Failure::Final(of_tls(url, cause)),
        ureq::Error::Rustls(cause) => Failure::Final(of_tls(url, cause)),
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Protocol(_)
        | ureq::Error::BodyStalled => Failure::Passing { error: told, pause: None },
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Final(wrong_input(told)),
        _ => Failure::Final(told),
    }
}

fn of_tls(url: &str, cause: &dyn std::fmt::Display) -> anyhow::Error {
    let cause = cause.to_string();
    let help = if cause.contains("certificate") {
        "\nhelp: `SSL_CERT_FILE` names a file with the certificates to trust"
    } else {
        ""
    };
    anyhow!("no secure connection to the endpoint at `{url}`: {cause}{help}")
}

/// The first line of a text that is not blank, within bounds.
pub(super) fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("(no text)");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::ErrorChain;

    /// The first words of what a status means: `passing`, `world` or `input`.
    fn class(status: u16, text: &str) -> &'static str {
        let status = StatusCode::from_u16(status).unwrap();
        match of_status("http://x", None, &Answer { status, location: None, pause: None, text }) {
            Failure::Passing { error, .. } if !ErrorChain::of(&error).input => "passing",
            Failure::Final(error) if !ErrorChain::of(&error).input => "world",
            Failure::Passing { .. } => "a mistake that passes",
            Failure::Final(_) => "input",
        }
    }

    #[test]
    fn every_status_is_of_the_world_or_of_the_user() {
        for (expected, statuses) in [
            ("passing", vec![408, 409, 425, 429, 500, 502, 503, 504, 529]),
            ("world", vec![401, 402, 403, 407]),
            ("input", vec![301, 302, 303, 307, 308, 400, 404, 405, 410, 413, 415, 422]),
        ] {
            for status in statuses {
                assert_eq!(class(status, ""), expected, "{status}");
            }
        }
        assert_eq!(class(429, r#"{"error": {"code": "insufficient_quota"}}"#), "world");
    }

    #[test]
    fn a_connection_that_fails_is_of_the_world_and_most_often_passes() {
        use std::io::{Error, ErrorKind};
        let class = |error: ureq::Error| match of_transport("http://x", &error) {
            Failure::Passing { error, .. } => ("passing", ErrorChain::of(&error).input),
            Failure::Final(error) => ("final", ErrorChain::of(&error).input),
        };
        assert_eq!(class(ureq::Error::HostNotFound), ("passing", false));
        assert_eq!(class(ureq::Error::ConnectionFailed), ("passing", false));
        assert_eq!(class(Error::from(ErrorKind::ConnectionRefused).into()), ("passing", false));
        assert_eq!(class(Error::from(ErrorKind::UnexpectedEof).into()), ("passing", false));
        assert_eq!(
            class(Error::new(ErrorKind::InvalidData, "invalid peer certificate: Expired").into()),
            ("final", false)
        );
        assert_eq!(class(ureq::Error::BodyExceedsLimit(1)), ("final", false));
        assert_eq!(class(ureq::Error::BadUri("x".into())), ("final", true));
    }

    #[test]
    fn a_redirect_names_its_target_and_what_to_write() {
        let told =
            |location: Option<&str>| redirect("http://a/v1/chat/completions", StatusCode::FOUND, location).to_string();
        assert_eq!(
            told(Some("https://b/v2/chat/completions")),
            "the endpoint at `http://a/v1/chat/completions` said 302 Found: it redirects to \
             `https://b/v2/chat/completions`, and redirects are not followed\n\
             help: if the endpoint is there, write `url = \"https://b/v2\"`"
        );
        assert_eq!(
            told(Some("/login")),
            "the endpoint at `http://a/v1/chat/completions` said 302 Found: it redirects to `/login`, and redirects are \
             not followed"
        );
        assert_eq!(
            told(None),
            "the endpoint at `http://a/v1/chat/completions` said 302 Found, a redirect, without a target"
        );
    }
}
