//! The proxy and the certificates for connections to an endpoint, from environment variables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use ablate_core::base::wrong_input;

/// The environment variables that this module reads.
pub(super) const VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "https_proxy",
    "HTTPS_PROXY",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

type Variables = BTreeMap<String, String>;

/// Name and value of the first variable that is not blank.
fn first_set<'a>(names: &[&'static str], variables: &'a Variables) -> Option<(&'static str, &'a str)> {
    let value = |name: &&'static str| Some((*name, variables.get(*name)?.trim()));
    names.iter().filter_map(value).find(|(_, value)| !value.is_empty())
}

/// The proxy for a URL, chosen by the URL's scheme as curl does.
pub(super) fn proxy(url: &str, variables: &Variables) -> Result<Option<Url>> {
    let url: Url = url.parse().map_err(|error| wrong_input(anyhow!("`{url}` is not a valid URL: {error}")))?;
    let secure = url.scheme() == "https";
    let names = if secure { ["https_proxy", "HTTPS_PROXY"] } else { ["http_proxy", "HTTP_PROXY"] };
    let Some((name, value)) = first_set(&[names[0], names[1], "all_proxy", "ALL_PROXY"], variables) else {
        return Ok(None);
    };
    let host = url.host_str().unwrap_or_default();
    let port = url.port().unwrap_or(if secure { 443 } else { 80 });
    if first_set(&["no_proxy", "NO_PROXY"], variables).is_some_and(|(_, list)| is_bypassed(list, host, port)) {
        return Ok(None);
    }
    // The value may contain a password, so the message does not repeat it.
    let wrong = || wrong_input(anyhow!("the environment variable `{name}` is not a valid proxy URL"));
    // As for curl, a proxy without a scheme is an HTTP proxy.
    let value = if value.contains("://") { value.to_string() } else { format!("http://{value}") };
    let proxy: Url = value.parse().map_err(|_| wrong())?;
    let known = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"].contains(&proxy.scheme());
    if known && proxy.host_str().is_some_and(|host| !host.is_empty()) { Ok(Some(proxy)) } else { Err(wrong()) }
}

/// Whether a `no_proxy` list such as `localhost,.example.org,10.0.0.0/8` contains a host. An entry is a host name, a
/// domain, an IP address (each with or without a port), a network, or `*` for every host.
fn is_bypassed(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
            return is_in_network(address, network, bits).unwrap_or(false);
        }
        // The last colon of an IPv6 address without brackets does not start a port.
        let (name, entry_port) = match entry.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse().ok()),
            _ => (entry.as_str(), Some(port)),
        };
        let name = name.trim_matches(['[', ']']).trim_start_matches("*.").trim_start_matches('.');
        entry_port == Some(port) && (host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')))
    })
}

fn is_in_network(address: IpAddr, network: &str, bits: &str) -> Option<bool> {
    let bits: u32 = bits.parse().ok()?;
    let width = |wide: u32| wide.checked_sub(bits);
    Some(match (address, network.parse().ok()?) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            (one.to_bits() ^ other.to_bits()).checked_shr(width(32)?).unwrap_or(0) == 0
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            (one.to_bits() ^ other.to_bits()).checked_shr(width(128)?).unwrap_or(0) == 0
        }
        _ => false,
    })
}

/// The certificates to trust: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. If neither is set, those of the system. If
/// the system has none, Mozilla's list of the time when this program was built.
pub(super) fn tls(url: &str, variables: &Variables) -> Result<ClientConfig> {
    let secure = |address: &str| address.trim_start().to_ascii_lowercase().starts_with("https:");
    let proxies = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    let uses_tls = secure(url) || first_set(&proxies, variables).is_some_and(|(_, proxy)| secure(proxy));
    let roots = if uses_tls { root_certificates(variables)? } else { RootCertStore::empty() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn root_certificates(variables: &Variables) -> Result<RootCertStore> {
    let file = first_set(&["SSL_CERT_FILE"], variables);
    let folder = first_set(&["SSL_CERT_DIR"], variables);
    let named: Vec<String> = file.iter().chain(&folder).map(|(name, value)| format!("`{name}` (`{value}`)")).collect();
    if named.is_empty() {
        let roots = store(rustls_native_certs::load_native_certs().certs);
        let mozilla = || RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        return Ok(if roots.is_empty() { mozilla() } else { roots });
    }
    let path = |found: Option<(&str, &str)>| found.map(|(_, value)| Path::new(value).to_path_buf());
    let (file, folder) = (path(file), path(folder));
    let loaded = rustls_native_certs::load_certs_from_paths(file.as_deref(), folder.as_deref());
    let cannot = || format!("cannot read the certificates of the environment variable {}", named.join(" and "));
    if let Some(error) = loaded.errors.into_iter().next() {
        return Err(wrong_input(anyhow!("{error}"))).with_context(cannot);
    }
    let roots = store(loaded.certs);
    if roots.is_empty() {
        return Err(wrong_input(anyhow!("no certificate in PEM format found"))).with_context(cannot);
    }
    Ok(roots)
}

/// Certificates that cannot be parsed are left out, as the system's list contains some.
fn store(certificates: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    }

    #[test]
    fn proxy_depends_on_scheme_and_no_proxy() {
        let chosen = |url: &str, pairs: &[(&str, &str)]| {
            let proxy = proxy(url, &variables(pairs)).unwrap()?;
            Some(format!("{}:{}", proxy.host_str()?, proxy.port().map_or_else(String::new, |port| port.to_string())))
        };
        let both = [("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "http://user:pass@secure:2")];
        assert_eq!(chosen("http://a/v1", &both).as_deref(), Some("plain:1"));
        assert_eq!(chosen("https://a/v1", &both).as_deref(), Some("secure:2"));
        assert_eq!(chosen("https://a/v1", &[("ALL_PROXY", "socks5h://s:1080")]).as_deref(), Some("s:1080"));
        assert_eq!(chosen("https://a/v1", &[("https_proxy", ""), ("HTTPS_PROXY", "p:3")]).as_deref(), Some("p:3"));
        assert_eq!(chosen("http://a/v1", &[("HTTPS_PROXY", "p:3")]), None);
        assert_eq!(chosen("http://a/v1", &[("HTTP_PROXY", "p:3"), ("NO_PROXY", "b, a")]), None);
        let error = proxy("http://a", &variables(&[("HTTP_PROXY", "ftp://me:secret@p")])).unwrap_err().to_string();
        assert_eq!(error, "the environment variable `HTTP_PROXY` is not a valid proxy URL");
    }

    #[test]
    fn no_proxy_matches_name_domain_address_network() {
        let yes = [
            ("*", "a.org"),
            ("localhost,.A.org", "b.a.org"),
            ("*.a.org", "b.a.org"),
            ("a.org", "a.org"),
            ("a.org:8000", "a.org"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "[::1]"),
            ("[::1]:8000", "[::1]"),
            ("fd00::/8", "[fd12::3]"),
            ("0.0.0.0/0", "9.9.9.9"),
        ];
        for (list, host) in yes {
            assert!(is_bypassed(list, host, 8000), "{list} {host}");
        }
        let no = [
            ("", "a.org"),
            ("a.org", "ba.org"),
            ("a.org:8001", "a.org"),
            ("10.0.0.0/8", "11.1.2.3"),
            ("10.0.0.0/33", "10.0.0.0"),
            ("10.0.0.0/8", "a.org"),
            ("::1", "[::2]"),
        ];
        for (list, host) in no {
            assert!(!is_bypassed(list, host, 8000), "{list} {host}");
        }
    }

    #[test]
    fn unreadable_certificates_name_their_variable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("none.pem");
        let named = variables(&[("SSL_CERT_FILE", file.to_str().unwrap())]);
        let message = |error: anyhow::Error| format!("{error:#}").replace(file.to_str().unwrap(), "none.pem");
        let missing = message(tls("https://a", &named).unwrap_err());
        assert!(
            missing
                .starts_with("cannot read the certificates of the environment variable `SSL_CERT_FILE` (`none.pem`)")
        );
        ablate_core::base::files::write_atomic(&file, b"no certificate\n").unwrap();
        assert_eq!(
            message(tls("https://a", &named).unwrap_err()),
            "cannot read the certificates of the environment variable `SSL_CERT_FILE` (`none.pem`): no certificate in PEM \
             format found"
        );
        // They are not read for a URL without TLS.
        assert!(tls("http://a", &named).is_ok());
    }
}
