//! Addresses of remotes: `s3://bucket/prefix`, or a folder that several machines share.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};

/// Where a remote is. It never contains credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    S3 {
        bucket: String,
        /// Without slashes at its ends; empty for the whole bucket.
        prefix: String,
    },
    /// An absolute path.
    Folder(PathBuf),
}

/// What an address can be, for messages.
const POSSIBLE: &str = "write `s3://bucket/prefix` or an absolute folder such as `/mnt/share/ablate`";

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Address> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return folder(text);
        };
        // A key or a password may stand before the `@` or in the query, so the message does not repeat the address.
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') || rest.contains('?') || (scheme == "s3" && host.contains(':')) {
            bail!(
                "the address of the remote contains a user name, a key or a query, which is not allowed\nhelp: credentials are read from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or from `~/.aws/credentials`"
            );
        }
        match scheme {
            "s3" => s3(rest),
            "file" if rest.starts_with('/') => folder(rest),
            "file" => bail!("a `file://` address needs an absolute path, such as `file:///mnt/share/ablate`"),
            "http" | "https" => bail!(
                "the address of a remote cannot start with `{scheme}://`\nhelp: for a server with the S3 interface write `s3://bucket/prefix`, and its address into the environment variable `AWS_ENDPOINT_URL`"
            ),
            _ => bail!("a remote cannot be reached with `{scheme}://`\nhelp: {POSSIBLE}"),
        }
    }
}

fn s3(rest: &str) -> Result<Address> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(allowed) {
        bail!("`{bucket}` is not the name of a bucket\nhelp: {POSSIBLE}");
    }
    let prefix = prefix.trim_end_matches('/');
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.chars().all(|c| allowed(c) || "=+ ".contains(c))
    };
    if !prefix.is_empty() && !prefix.split('/').all(plain) {
        bail!(
            "`{prefix}` cannot be the prefix of a remote: its parts are letters, digits and `-._=+`, separated by single `/`"
        );
    }
    Ok(Address::S3 { bucket: bucket.to_string(), prefix: prefix.to_string() })
}

fn folder(text: &str) -> Result<Address> {
    let path = Path::new(text);
    if text.is_empty() || !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        bail!("`{text}` is not the address of a remote\nhelp: {POSSIBLE}");
    }
    Ok(Address::Folder(path.components().collect()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Address::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Address::Folder(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_buckets_and_folders() {
        let show = |text: &str| text.parse::<Address>().unwrap().to_string();
        assert_eq!(show("s3://data"), "s3://data");
        assert_eq!(show("s3://data/"), "s3://data");
        assert_eq!(show("s3://data/team a/x_1/"), "s3://data/team a/x_1");
        assert_eq!(show("/mnt/share/./ablate/"), "/mnt/share/ablate");
        assert_eq!(show("file:///mnt/share"), "/mnt/share");
    }

    #[test]
    fn other_addresses_are_refused() {
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        for text in
            ["", "share", "data/prefix", "../share", "/mnt/../x", "s3:/data", "file://share/x", "s3://a", "s3://"]
        {
            assert!(!error(text).is_empty(), "{text}");
        }
        for text in ["s3://data//x", "s3://data/../x", "s3://data/a*b", "s3://DATA!"] {
            assert!(!error(text).is_empty(), "{text}");
        }
        assert!(error("gs://data").contains("`gs://`"));
        assert!(error("http://host/data").contains("AWS_ENDPOINT_URL"));
    }

    #[test]
    fn credentials_in_an_address_are_not_repeated() {
        for text in [
            "s3://AKIA:topsecret@data/x",
            "s3://topsecret@data",
            "https://u:topsecret@host/data",
            "s3://data/x?key=topsecret",
            "s3://topsecret:x/y",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("is not allowed") && !error.contains("topsecret"), "{error}");
        }
    }
}
