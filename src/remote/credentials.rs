//! Credentials and the endpoint of S3, from the environment variables and files that the AWS command line uses too. They are never
//! printed or stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use ablate_core::base::diagnostic::nearest;
use ablate_core::base::files;

/// How to reach S3. It has no `Debug`, so that the key cannot be printed by accident.
pub(crate) struct S3Settings {
    pub(crate) key_id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
    pub(crate) region: String,
    /// The address of another server than that of AWS.
    pub(crate) endpoint: Option<String>,
}

/// The environment that the settings are read from.
pub(crate) struct Environment {
    variables: BTreeMap<String, String>,
}

/// The sections of an ini file by name, each with its keys.
type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// Ways to get credentials that need other programs or services.
const OTHER_SOURCES: &[&str] = &["credential_process", "sso_session", "sso_start_url", "role_arn", "credential_source"];

impl Environment {
    /// The environment of this process. Values that are not UTF-8 are left out.
    pub(crate) fn of_process() -> Environment {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Environment { variables: std::env::vars_os().filter_map(text).collect() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The path of a file of AWS: from a variable, or in `~/.aws`.
    fn path(&self, variable: &str, name: &str) -> Option<PathBuf> {
        let home = || Some(Path::new(self.get("HOME")?).join(".aws").join(name));
        self.get(variable).map(PathBuf::from).or_else(home)
    }

    /// The sections of a file; empty if it does not exist.
    fn sections(&self, variable: &str, name: &str) -> Result<Sections> {
        match self.path(variable, name) {
            Some(path) if path.is_file() => parse(&files::read_text(&path)?, &path),
            Some(path) if self.get(variable).is_some() => {
                bail!("the file `{}` of the environment variable `{variable}` does not exist", path.display())
            }
            _ => Ok(Sections::new()),
        }
    }

    /// The settings for S3.
    pub(crate) fn s3_settings(&self) -> Result<S3Settings> {
        let credentials = self.sections("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
        let config = self.sections("AWS_CONFIG_FILE", "config")?;
        let profile = self.get("AWS_PROFILE").unwrap_or("default");
        // In `config`, all profiles except `default` have a prefix.
        let in_config = config.get(&format!("profile {profile}")).or_else(|| config.get(profile));
        let layers = [credentials.get(profile), in_config];
        let from_files = |key: &str| layers.iter().flatten().find_map(|layer| layer.get(key)).map(String::as_str);
        if self.get("AWS_PROFILE").is_some() && layers.iter().all(Option::is_none) {
            let names = config
                .keys()
                .map(|name| name.trim_start_matches("profile "))
                .chain(credentials.keys().map(String::as_str));
            let near =
                nearest(profile, names).map(|near| format!("\nhelp: a profile of a similar name exists: `{near}`"));
            bail!(
                "the profile `{profile}` of the environment variable `AWS_PROFILE` is not in the files of AWS{}",
                near.unwrap_or_default()
            );
        }
        let region = self.get("AWS_REGION").or_else(|| self.get("AWS_DEFAULT_REGION")).or_else(|| from_files("region"));
        let endpoint = self.get("AWS_ENDPOINT_URL_S3").or_else(|| self.get("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.or_else(|| from_files("endpoint_url")).map(check_endpoint).transpose()?;
        let (key_id, secret, token) = match (self.get("AWS_ACCESS_KEY_ID"), self.get("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => (id, secret, self.get("AWS_SESSION_TOKEN")),
            (Some(_), None) => bail!("`AWS_ACCESS_KEY_ID` is set and `AWS_SECRET_ACCESS_KEY` is not: set both"),
            (None, Some(_)) => bail!("`AWS_SECRET_ACCESS_KEY` is set and `AWS_ACCESS_KEY_ID` is not: set both"),
            (None, None) => match (from_files("aws_access_key_id"), from_files("aws_secret_access_key")) {
                (Some(id), Some(secret)) => (id, secret, from_files("aws_session_token")),
                _ => return Err(no_credentials(profile, OTHER_SOURCES.iter().find(|key| from_files(key).is_some()))),
            },
        };
        Ok(S3Settings {
            key_id: key_id.to_string(),
            secret: secret.to_string(),
            token: token.map(str::to_string),
            region: region.unwrap_or("us-east-1").to_string(),
            endpoint,
        })
    }
}

fn no_credentials(profile: &str, other: Option<&&str>) -> anyhow::Error {
    match other {
        Some(key) => anyhow!(
            "the profile `{profile}` gets its credentials with `{key}`, which ablate does not support\nhelp: run `eval \"$(aws configure export-credentials --profile {profile} --format env)\"` first"
        ),
        None => anyhow!(
            "there are no credentials for S3\nhelp: set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or write them into `~/.aws/credentials`"
        ),
    }
}

/// The endpoint, which may contain a password if it is wrong: the message does not repeat it then.
fn check_endpoint(url: &str) -> Result<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(rest) if rest.contains('@') || rest.contains('?') => {
            bail!("the endpoint of S3 (`AWS_ENDPOINT_URL`) must not contain a user name, a key or a query")
        }
        Some(rest) if !rest.is_empty() => Ok(url.trim_end_matches('/').to_string()),
        _ => bail!("the endpoint of S3 (`AWS_ENDPOINT_URL`) must start with `https://` or `http://`"),
    }
}

/// Parses an ini file of AWS. Indented lines are nested settings, of which none is needed.
fn parse(text: &str, path: &Path) -> Result<Sections> {
    let mut sections = Sections::new();
    let mut section = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if nested || line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let Some((name, _)) = name.split_once(']') else {
                bail!("{}:{number}: a section lacks its `]`", path.display())
            };
            section = name.split_whitespace().collect::<Vec<_>>().join(" ");
            sections.entry(section.clone()).or_default();
        } else if let Some((key, value)) = line.split_once('=') {
            let keys = sections.entry(section.clone()).or_default();
            keys.insert(key.trim().to_ascii_lowercase(), value.trim().to_string());
        } else {
            // The line may be a key, so the message does not repeat it.
            bail!("{}:{number}: this line is neither a `[section]` nor `key = value`", path.display());
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment { variables: variables.iter().map(|(a, b)| ((*a).to_string(), (*b).to_string())).collect() }
    }

    fn error(environment: &Environment) -> String {
        environment.s3_settings().err().unwrap().to_string()
    }

    #[test]
    fn environment_precedes_files() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            files::write_atomic(&home.path().join(".aws").join(name), text.as_bytes()).unwrap();
        };
        write(
            "credentials",
            "# mine\n[default]\naws_access_key_id = A1\naws_secret_access_key=s1\n[ lab ]\naws_access_key_id=A2\naws_secret_access_key=s2\naws_session_token=t2\n",
        );
        write(
            "config",
            "[default]\nregion = eu-west-1\ns3 =\n  max_concurrent_requests = 20\n[profile lab]\nregion=eu-north-1\nendpoint_url = http://lab:9000/\n[profile sso]\nsso_session = x\n",
        );
        let folder = home.path().display().to_string();
        let base = [("HOME", folder.as_str())];
        let show = |more: &[(&str, &str)]| {
            let settings = environment(&[&base[..], more].concat()).s3_settings().unwrap();
            let S3Settings { key_id, secret, token, region, endpoint } = settings;
            format!("{key_id} {secret} {} {region} {}", token.unwrap_or_default(), endpoint.unwrap_or_default())
        };
        assert_eq!(show(&[]), "A1 s1  eu-west-1 ");
        assert_eq!(show(&[("AWS_PROFILE", "lab")]), "A2 s2 t2 eu-north-1 http://lab:9000");
        let own = [("AWS_ACCESS_KEY_ID", "A3"), ("AWS_SECRET_ACCESS_KEY", "s3"), ("AWS_REGION", "x")];
        assert_eq!(show(&own), "A3 s3  x ");
        assert!(error(&environment(&[base[0], ("AWS_PROFILE", "lob")])).contains("similar name exists: `lab`"));
        assert!(error(&environment(&[base[0], ("AWS_PROFILE", "sso")])).contains("`sso_session`"));
        assert!(error(&environment(&[base[0], own[0]])).contains("set both"));
    }

    #[test]
    fn wrong_settings_do_not_repeat_secrets() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("credentials");
        files::write_atomic(&path, b"[default]\ntopsecret\n").unwrap();
        let file = path.display().to_string();
        let text = error(&environment(&[("AWS_SHARED_CREDENTIALS_FILE", &file)]));
        assert!(text.ends_with("credentials:2: this line is neither a `[section]` nor `key = value`"), "{text}");
        assert!(error(&environment(&[])).starts_with("there are no credentials for S3"));
        for endpoint in ["https://u:topsecret@host", "host:9000", "https://", "ftp://x"] {
            let text = error(&environment(&[("AWS_ENDPOINT_URL", endpoint)]));
            assert!(text.contains("`AWS_ENDPOINT_URL`") && !text.contains("topsecret"), "{text}");
        }
        assert!(error(&environment(&[("AWS_CONFIG_FILE", "/nowhere")])).contains("`AWS_CONFIG_FILE`"));
    }
}
