//! Tests of the client and of batches against servers of this process.

mod batch;
mod batch_server;
mod client;
mod fuzz;

use anyhow::Result;

use super::{ChatRequest, ContentPart, ImageUrls, Sampling};

/// The body of a request about a question with a number.
fn body(request: usize, samples: usize) -> Result<Vec<u8>> {
    let sampling = Sampling { model: "teacher".into(), temperature: 0.5, max_tokens: 64, ..Sampling::default() };
    let content = vec![ContentPart::Text(format!("Question {request}?"))];
    ChatRequest { system: "Be brief.".into(), content }.body(&sampling, samples, &ImageUrls::Data)
}
