//! Who may do what: the host name, the token, the origin of a change, and the headers of every response.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, HeaderName, HeaderValue, LOCATION, ORIGIN, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error_page::error_page;
use super::{Site, token};
use ablate_report::html::policy_hashes;

/// The header that proves that a page of this server made a change. A page of another server cannot read its value.
const CSRF_HEADER: &str = "x-csrf-token";

/// The rules of access.
pub(super) struct Access {
    token: Option<String>,
    /// Name of the cookie that holds the token. Browsers send cookies to all ports of a host, so it has the port.
    cookie: String,
    /// The token that a page sends with each change.
    pub(super) csrf: String,
    policy: HeaderValue,
}

impl Access {
    pub(super) fn new(token: Option<String>, address: SocketAddr) -> Result<Access> {
        let hashes = policy_hashes();
        let policy = format!(
            "default-src 'none'; script-src 'self' {}; style-src 'self' {}; img-src data: blob:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hashes.script, hashes.style
        );
        let policy = HeaderValue::from_str(&policy).context("BUG: the policy is not a header")?;
        Ok(Access { token, cookie: format!("ablate-{}", address.port()), csrf: token::random()?, policy })
    }

    /// The response to a request that is not allowed, or that only brings the token.
    fn answer(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
        let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| is_own_host(host)) else {
            // A web site could make its own name point to this machine, and then read pages (DNS rebinding).
            let text = "This server answers only to IP addresses, `localhost` and the name of its machine.";
            return Some(error_page(StatusCode::FORBIDDEN, text));
        };
        if let Some(token) = &self.token {
            if let Some((given, rest)) = take_token(uri) {
                if !token::is_equal(&given, token) {
                    return Some(error_page(StatusCode::UNAUTHORIZED, "The token is wrong."));
                }
                let cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Strict", self.cookie);
                return Some((StatusCode::SEE_OTHER, [(LOCATION, rest), (SET_COOKIE, cookie)]).into_response());
            }
            if !cookies(headers).any(|(name, value)| name == self.cookie && token::is_equal(value, token)) {
                let text = "Open the address with the token that `ablate serve` printed.";
                return Some(error_page(StatusCode::UNAUTHORIZED, text));
            }
        }
        if method != Method::GET && method != Method::HEAD {
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if header(ORIGIN.as_str()) != format!("http://{host}") {
                return Some(error_page(StatusCode::FORBIDDEN, "The request comes from a page of another server."));
            }
            if !token::is_equal(header(CSRF_HEADER), &self.csrf) {
                let text = "The page is from an earlier start of this server: reload it.";
                return Some(error_page(StatusCode::FORBIDDEN, text));
            }
        }
        None
    }
}

/// Answers requests that are not allowed, and adds the headers of every response.
pub(super) async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let mut response = match site.access.answer(request.method(), request.uri(), request.headers()) {
        Some(response) => response,
        None => next.run(request).await,
    };
    let same_origin = || HeaderValue::from_static("same-origin");
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, site.access.policy.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), same_origin());
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin());
    response
}

/// Whether a `Host` header names this machine: by an address, which no name server can redirect, or by its name. The port may
/// be another one, because of tunnels.
fn is_own_host(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_named = [String::from("localhost"), ablate_store::host()].iter().any(|own| own.eq_ignore_ascii_case(name));
    !host.contains('@') && (name.parse::<IpAddr>().is_ok() || is_named)
}

/// The token of an address, and the address without it.
fn take_token(uri: &Uri) -> Option<(String, String)> {
    let (mut given, mut rest) = (None, Vec::new());
    for pair in uri.query()?.split('&') {
        match pair.strip_prefix("token=") {
            Some(token) => given = Some(token.to_string()),
            None => rest.push(pair),
        }
    }
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    // Two slashes at the start would be the address of another server.
    given.map(|token| (token, format!("/{}{query}", uri.path().trim_start_matches('/'))))
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let all = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(access: &Access, method: &Method, uri: &str, headers: &[(&'static str, &str)]) -> u16 {
        let pairs = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let answer = access.answer(method, &uri.parse().unwrap(), &pairs.collect());
        answer.map_or(200, |answer| answer.status().as_u16())
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        let good = ["127.0.0.1:8765", "localhost:9000", "LOCALHOST", "[::1]:8765", "10.1.2.3:80"];
        assert!(good.iter().all(|host| is_own_host(host)));
        assert!(is_own_host(&format!("{}:1", ablate_store::host())));
        let bad =
            ["example.org", "localhost.example.org:8765", "127.0.0.1.example.org", "", "a b", "localhost@example.org"];
        assert!(!bad.iter().any(|host| is_own_host(host)));
    }

    #[test]
    fn a_token_is_needed_once_and_then_a_cookie() {
        let secret = "0123456789abcdef";
        let access = Access::new(Some(secret.to_string()), "127.0.0.1:8765".parse().unwrap()).unwrap();
        let get =
            |uri: &str, cookie: &str| status(&access, &Method::GET, uri, &[("host", "localhost"), ("cookie", cookie)]);
        assert_eq!(get("/", "a=b"), 401);
        assert_eq!(get("/?token=0123456789abcdee", "a=b"), 401);
        assert_eq!(get("/?token=0123456789abcdef", "a=b"), 303);
        assert_eq!(get("/", "x=1; ablate-8765=0123456789abcdef"), 200);
        assert_eq!(get("/", "ablate-8766=0123456789abcdef"), 401);
        let address = |uri: &str| take_token(&uri.parse().unwrap());
        assert_eq!(address("//evil.org/?a=1&token=t&b=2"), Some(("t".to_string(), "/evil.org/?a=1&b=2".to_string())));
        assert_eq!(address("/?a=token"), None);
    }

    #[test]
    fn a_change_needs_the_origin_and_the_token_of_a_page() {
        let access = Access::new(None, "127.0.0.1:8765".parse().unwrap()).unwrap();
        let csrf = access.csrf.clone();
        let post = |origin: &str, token: &str| {
            let headers = [("host", "127.0.0.1:8765"), ("origin", origin), ("x-csrf-token", token)];
            status(&access, &Method::POST, "/runs/1/stop", &headers)
        };
        assert_eq!(post("http://127.0.0.1:8765", &csrf), 200);
        assert_eq!(post("http://127.0.0.1:8765", "guess"), 403);
        for origin in ["http://127.0.0.1:8766", "http://localhost:8765", "https://127.0.0.1:8765", "null", ""] {
            assert_eq!(post(origin, &csrf), 403, "{origin}");
        }
    }
}
