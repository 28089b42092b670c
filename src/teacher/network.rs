//! The way to an endpoint: the proxy and the certificates that the environment names. Sends nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use ablate_core::base::wrong_input;

/// The environment variables that decide it.
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

/// The first of the variables that is not blank, with its name.
fn first<'a>(names: &[&'static str], variables: &'a Variables) -> Option<(&'static str, &'a str)> {
    let value = |name: &&'static str| Some((*name, variables.get(*name)?.trim()));
    names.iter().filter_map(value).find(|(_, value)| !value.is_empty())
}

/// The proxy on the way to an address: as curl chooses it, by the address's scheme.
pub(super) fn proxy(url: &str, variables: &Variables) -> Result<Option<ureq::Proxy>> {
    let uri: Uri = url.parse().map_err(|error| wrong_input(anyhow!("`{url}` is no address: {error}")))?;
    let secure = uri.scheme_str() == Some("https");
    let names = if secure { ["https_proxy", "HTTPS_PROXY"] } else { ["http_proxy", "HTTP_PROXY"] };
    let Some((name, value)) = first(&[names[0], names[1], "all_proxy", "ALL_PROXY"], variables) else {
        return Ok(None);
    };
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    if first(&["no_proxy", "NO_PROXY"], variables).is_some_and(|(_, list)| is_excepted(list, host, port)) {
        return Ok(None);
    }
    // The value may hold a password: it is not repeated.
    let wrong = |_| wrong_input(anyhow!("`{name}` of the environment holds no address of a proxy"));
    ureq::Proxy::new(value).map(Some).map_err(wrong)
}

/// Whether a list such as `localhost,.example.org,10.0.0.0/8` names a host: by its name, a domain that it is in, its
/// address or network, each with a port or without; `*` is every host.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
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
        // The colons of an IPv6 address without brackets are no port.
        let (name, own) = match entry.rsplit_once(':') {
            Some((name, own)) if !name.contains(':') || name.ends_with(']') => (name, own.parse().ok()),
            _ => (entry.as_str(), Some(port)),
        };
        let name = name.trim_matches(['[', ']']).trim_start_matches("*.").trim_start_matches('.');
        own == Some(port) && (host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')))
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

/// The certificates to trust: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`; where neither is set, those of the system;
/// where it has none, Mozilla's list as it was when this program was built.
pub(super) fn tls(url: &str, variables: &Variables) -> Result<TlsConfig> {
    let secure = |address: &str| address.trim_start().to_ascii_lowercase().starts_with("https:");
    let proxies = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    let needed = secure(url) || first(&proxies, variables).is_some_and(|(_, proxy)| secure(proxy));
    let roots = if needed { roots(variables)? } else { RootCerts::WebPki };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn roots(variables: &Variables) -> Result<RootCerts> {
    let file = first(&["SSL_CERT_FILE"], variables);
    let folder = first(&["SSL_CERT_DIR"], variables);
    let named: Vec<String> = file.iter().chain(&folder).map(|(name, value)| format!("`{name}` (`{value}`)")).collect();
    if named.is_empty() {
        let certificates = rustls_native_certs::load_native_certs().certs;
        return Ok(if certificates.is_empty() { RootCerts::WebPki } else { specific(&certificates) });
    }
    let path = |found: Option<(&str, &str)>| found.map(|(_, value)| Path::new(value).to_path_buf());
    let (file, folder) = (path(file), path(folder));
    let loaded = rustls_native_certs::load_certs_from_paths(file.as_deref(), folder.as_deref());
    let cannot = || format!("cannot read the certificates that {} of the environment names", named.join(" and "));
    if let Some(error) = loaded.errors.into_iter().next() {
        return Err(wrong_input(anyhow!("{error}"))).with_context(cannot);
    }
    if loaded.certs.is_empty() {
        return Err(wrong_input(anyhow!("there is no certificate in PEM format"))).with_context(cannot);
    }
    Ok(specific(&loaded.certs))
}

fn specific<C: AsRef<[u8]>>(certificates: &[C]) -> RootCerts {
    let certificates: Vec<Certificate<'static>> =
        certificates.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect();
    RootCerts::new_with_certs(&certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    }

    #[test]
    fn the_proxy_is_chosen_by_scheme_and_not_for_hosts_that_are_excepted() {
        let chosen = |url: &str, pairs: &[(&str, &str)]| {
            proxy(url, &variables(pairs)).unwrap().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()))
        };
        let both = [("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "http://user:pass@secure:2")];
        assert_eq!(chosen("http://a/v1", &both).as_deref(), Some("plain:1"));
        assert_eq!(chosen("https://a/v1", &both).as_deref(), Some("secure:2"));
        assert_eq!(chosen("https://a/v1", &[("ALL_PROXY", "socks5h://s")]).as_deref(), Some("s:1080"));
        assert_eq!(chosen("https://a/v1", &[("https_proxy", ""), ("HTTPS_PROXY", "p:3")]).as_deref(), Some("p:3"));
        assert_eq!(chosen("http://a/v1", &[("HTTPS_PROXY", "p:3")]), None);
        assert_eq!(chosen("http://a/v1", &[("HTTP_PROXY", "p:3"), ("NO_PROXY", "b, a")]), None);
        let error = proxy("http://a", &variables(&[("HTTP_PROXY", "ftp://me:secret@p")])).unwrap_err().to_string();
        assert_eq!(error, "`HTTP_PROXY` of the environment holds no address of a proxy");
    }

    #[test]
    fn a_host_is_excepted_by_name_domain_address_and_network() {
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
            assert!(is_excepted(list, host, 8000), "{list} {host}");
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
            assert!(!is_excepted(list, host, 8000), "{list} {host}");
        }
    }

    #[test]
    fn certificates_that_cannot_be_read_are_an_error_with_the_variable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("none.pem");
        let named = variables(&[("SSL_CERT_FILE", file.to_str().unwrap())]);
        let told = |error: anyhow::Error| format!("{error:#}").replace(file.to_str().unwrap(), "none.pem");
        let missing = told(tls("https://a", &named).unwrap_err());
        assert!(
            missing.starts_with("cannot read the certificates that `SSL_CERT_FILE` (`none.pem`) of the environment")
        );
        ablate_core::base::files::write_atomic(&file, b"no certificate\n").unwrap();
        assert_eq!(
            told(tls("https://a", &named).unwrap_err()),
            "cannot read the certificates that `SSL_CERT_FILE` (`none.pem`) of the environment names: there is no \
             certificate in PEM format"
        );
        // Nobody reads them for an address without TLS.
        assert!(tls("http://a", &named).is_ok());
    }
}
