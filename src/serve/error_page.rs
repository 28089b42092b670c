//! The page that says why a request was not answered.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use super::fragments::STYLE;
use ablate_report::html::{document, escape};

/// A page that says what is wrong.
pub(super) fn error_page(status: StatusCode, text: &str) -> Response {
    let body = format!(
        "<header><h1>{}</h1></header><main><section><pre class=\"log\">{}</pre><p><a href=\"/\">All runs</a></p></section></main>{STYLE}",
        status.canonical_reason().unwrap_or("Error"),
        escape(text)
    );
    (status, Html(document("ablate", &body, &[]))).into_response()
}
