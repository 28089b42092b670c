//! Errors of a remote in words of the user.

use std::error::Error as StdError;
use std::fmt;

use anyhow::anyhow;

/// The user stopped the command.
#[derive(Debug)]
pub(crate) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the transfer was stopped; the same command continues it")
    }
}

impl StdError for Stopped {}

/// Whether an error says that the user stopped the command.
pub fn is_stopped(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn StdError>::is::<Stopped>)
}

/// The server did not answer.
#[derive(Debug)]
pub(crate) struct Unreachable(pub(crate) String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the server cannot be reached: {}\nhelp: check the network and `AWS_ENDPOINT_URL`, and run the same command again: it continues",
            self.0
        )
    }
}

impl StdError for Unreachable {}

/// Whether an error says that the server did not answer.
pub fn is_unreachable(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn StdError>::is::<Unreachable>)
}

/// The place is empty: no remote was made there yet.
#[derive(Debug)]
pub(crate) struct NoRemote(pub(crate) String);

impl fmt::Display for NoRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no remote at {}\nhelp: `ablate push` creates one", self.0)
    }
}

impl StdError for NoRemote {}

/// Whether an error says that no remote was made at the address yet.
pub fn is_no_remote(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn StdError>::is::<NoRemote>)
}

/// Answers of S3 servers by their codes, with what to do.
const CODES: &[(&str, &str)] = &[
    ("NoSuchBucket", "the bucket does not exist\nhelp: create it, or correct the address and `AWS_ENDPOINT_URL`"),
    (
        "InvalidAccessKeyId",
        "the server does not know the access key\nhelp: check `AWS_ACCESS_KEY_ID`, `AWS_PROFILE` and `AWS_ENDPOINT_URL`",
    ),
    ("SignatureDoesNotMatch", "the secret key is wrong\nhelp: check `AWS_SECRET_ACCESS_KEY` or `~/.aws/credentials`"),
    ("ExpiredToken", "the credentials have expired\nhelp: get new ones, and run the same command again"),
    ("InvalidToken", "the session token is wrong\nhelp: check `AWS_SESSION_TOKEN`"),
    ("RequestTimeTooSkewed", "the clock of this machine differs from that of the server\nhelp: set the clock"),
    ("AuthorizationHeaderMalformed", "the bucket is in another region\nhelp: set `AWS_REGION` to that of the bucket"),
    ("PermanentRedirect", "the bucket is in another region\nhelp: set `AWS_REGION` to that of the bucket"),
    (
        "IllegalLocationConstraintException",
        "the bucket is in another region\nhelp: set `AWS_REGION` to that of the bucket",
    ),
    ("QuotaExceeded", "the quota of the bucket is used up\nhelp: `ablate gc --remote` removes what nothing needs"),
    ("AccessDenied", ACCESS_DENIED),
];

const ACCESS_DENIED: &str =
    "the credentials do not permit this\nhelp: they need to list the bucket, and to read, write and delete its objects";

/// Describes a failed request. `doing` says what failed.
pub(crate) fn explain(doing: &str, error: &object_store::Error) -> anyhow::Error {
    cause(error).context(doing.to_string())
}

fn cause(error: &object_store::Error) -> anyhow::Error {
    let mut causes = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::StorageFull
        {
            return anyhow!("the disk of the shared folder is full");
        }
        causes.push(cause.to_string());
        next = cause.source();
    }
    let text = causes.join("\n");
    if let Some((_, message)) = CODES.iter().find(|(code, _)| text.contains(&format!("<Code>{code}</Code>"))) {
        return anyhow!("{message}");
    }
    if text.contains("without LOCATION") {
        return anyhow!("the bucket is in another region\nhelp: set `AWS_REGION` to that of the bucket");
    }
    if matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) {
        return anyhow!("{ACCESS_DENIED}");
    }
    let network = ["error sending request", "Connect", "timed out", "dns error", "connection"];
    // The last cause names the system's error. It has no headers and no body, and so no credentials.
    let last = causes.last().map_or("", |last| last.lines().next().unwrap_or_default());
    let last: String = last.chars().take(300).collect();
    if network.iter().any(|word| text.contains(word)) {
        return Unreachable(last).into();
    }
    anyhow!("{last}")
}
