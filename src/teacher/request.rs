//! The content of a request: its JSON body, and the hash that identifies its reply.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde_json::{Map, Value, json};

use ablate_core::base::{Hash, files};

/// The messages that a model receives.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The system message; none if it is empty.
    pub system: String,
    /// The user's turn.
    pub content: Vec<ContentPart>,
}

/// A part of a message.
#[derive(Clone, Debug)]
pub enum ContentPart {
    Text(String),
    /// An encoded image file.
    Image(Vec<u8>),
}

/// The model and how it samples.
#[derive(Clone, Debug, Default)]
pub struct Sampling {
    pub model: String,
    /// The user's name for the weights that the endpoint serves under this model's name.
    pub revision: Option<String>,
    pub temperature: f64,
    pub max_tokens: u32,
    /// More fields of the body. They replace those of ablate.
    pub parameters: Map<String, Value>,
    /// Fields of the body that are not sent.
    pub omit: BTreeSet<String>,
}

/// How the images of a request are sent.
#[derive(Clone, Debug, Default)]
pub enum ImageUrls {
    /// As data URLs.
    #[default]
    Data,
    /// As files in this folder, for an endpoint that can read it.
    Files(PathBuf),
}

impl ImageUrls {
    fn url(&self, bytes: &[u8]) -> Result<String> {
        let format = image_format(bytes);
        match self {
            ImageUrls::Data => Ok(format!("data:image/{format};base64,{}", STANDARD.encode(bytes))),
            ImageUrls::Files(folder) => {
                let path = folder.join(format!("{}.{format}", Hash::of_bytes(bytes)));
                if !path.exists() {
                    files::write_unsynced(&path, bytes)?;
                }
                let url = Url::from_file_path(&path);
                Ok(url.map_err(|()| anyhow!("`{}` is not an absolute path", path.display()))?.to_string())
            }
        }
    }
}

impl ContentPart {
    fn body(&self, urls: &ImageUrls) -> Result<Value> {
        Ok(match self {
            ContentPart::Text(text) => json!({ "type": "text", "text": text }),
            ContentPart::Image(bytes) => json!({ "type": "image_url", "image_url": { "url": urls.url(bytes)? } }),
        })
    }

    fn identity(&self) -> Value {
        match self {
            ContentPart::Text(text) => json!({ "text": text }),
            ContentPart::Image(bytes) => json!({ "image": Hash::of_bytes(bytes) }),
        }
    }
}

/// The subtype of an image's MIME type, from its first bytes.
fn image_format(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, ..] => "jpeg",
        [b'G', b'I', b'F', ..] => "gif",
        [b'B', b'M', ..] => "bmp",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "webp",
        _ => "png",
    }
}

impl ChatRequest {
    /// The body for a number of samples.
    pub fn body(&self, sampling: &Sampling, samples: usize, urls: &ImageUrls) -> Result<Vec<u8>> {
        let content = match &self.content[..] {
            [ContentPart::Text(text)] => json!(text),
            parts => Value::Array(parts.iter().map(|part| part.body(urls)).collect::<Result<_>>()?),
        };
        let mut body = sampling.fields();
        let mut messages = Vec::new();
        if !self.system.is_empty() {
            messages.push(json!({ "role": "system", "content": self.system }));
        }
        messages.push(json!({ "role": "user", "content": content }));
        body.insert("messages".to_string(), Value::Array(messages));
        if samples > 1 {
            body.insert("n".to_string(), json!(samples));
        }
        Ok(Value::Object(body).to_string().into_bytes())
    }

    /// Identifies this request by its content: the model, the messages with the hashes of their images, and the sampling. The
    /// address and the API key are not part of it.
    pub fn id(&self, sampling: &Sampling) -> Hash {
        let content: Vec<Value> = self.content.iter().map(ContentPart::identity).collect();
        let identity = json!({
            "sampling": sampling.fields(),
            "revision": sampling.revision,
            "system": self.system,
            "content": content,
        });
        Hash::of_bytes(sorted(identity).to_string().as_bytes())
    }

    /// Identifies the reply to one sample of a request.
    pub fn sample_key(id: Hash, sample: usize) -> Hash {
        Hash::of_bytes(format!("{id} {sample}").as_bytes())
    }

    /// The tokens of the prompt, roughly: a token has about four bytes, and an image about a thousand tokens.
    pub fn estimated_tokens(&self) -> u64 {
        let part = |part: &ContentPart| match part {
            ContentPart::Text(text) => text.len() as u64 / 4,
            ContentPart::Image(_) => 1000,
        };
        8 + self.system.len() as u64 / 4 + self.content.iter().map(part).sum::<u64>()
    }
}

impl Sampling {
    /// The fields of the body apart from the messages.
    fn fields(&self) -> Map<String, Value> {
        let Sampling { model, revision: _, temperature, max_tokens, parameters, omit } = self;
        let mut fields = Map::new();
        fields.insert("model".to_string(), json!(model));
        fields.insert("temperature".to_string(), json!(temperature));
        // Newer models of OpenAI have another name for it.
        if !parameters.contains_key("max_completion_tokens") {
            fields.insert("max_tokens".to_string(), json!(max_tokens));
        }
        fields.retain(|name, _| !omit.contains(name));
        fields.extend(parameters.clone());
        fields
    }
}

/// The value with sorted keys, so that their order in a table has no effect.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling() -> Sampling {
        Sampling { model: "m".into(), temperature: 0.5, max_tokens: 64, ..Sampling::default() }
    }

    fn request(image: &[u8]) -> ChatRequest {
        let content = vec![ContentPart::Image(image.to_vec()), ContentPart::Text("What is it?".into())];
        ChatRequest { system: "Be brief.".into(), content }
    }

    fn body(request: &ChatRequest, sampling: &Sampling, samples: usize) -> Value {
        serde_json::from_slice(&request.body(sampling, samples, &ImageUrls::Data).unwrap()).unwrap()
    }

    #[test]
    fn body_has_messages_image_and_sampling() {
        let expected = json!({
            "model": "m",
            "temperature": 0.5,
            "max_tokens": 64,
            "messages": [
                { "role": "system", "content": "Be brief." },
                { "role": "user", "content": [
                    { "type": "image_url", "image_url": { "url": "data:image/png;base64,iVBORw==" } },
                    { "type": "text", "text": "What is it?" },
                ] },
            ],
        });
        assert_eq!(body(&request(b"\x89PNG"), &sampling(), 1), expected);
        let text = ChatRequest { system: String::new(), content: vec![ContentPart::Text("Hi".into())] };
        assert_eq!(body(&text, &sampling(), 3)["messages"], json!([{ "role": "user", "content": "Hi" }]));
        assert_eq!(body(&text, &sampling(), 3)["n"], json!(3));
        for (bytes, format) in
            [(&b"\xff\xd8\xff"[..], "jpeg"), (b"GIF89a", "gif"), (b"RIFF....WEBPVP8", "webp"), (b"BM", "bmp")]
        {
            assert_eq!(image_format(bytes), format);
        }
    }

    #[test]
    fn images_may_be_files() {
        let folder = tempfile::tempdir().unwrap();
        let urls = ImageUrls::Files(folder.path().join("a folder"));
        let url = urls.url(b"\x89PNG").unwrap();
        assert!(url.starts_with("file:///") && url.contains("/a%20folder/") && url.contains(".png"), "{url}");
        assert_eq!(urls.url(b"\x89PNG").unwrap(), url);
        let path = Url::parse(&url).unwrap().to_file_path().unwrap();
        assert_eq!(files::read_bytes(&path).unwrap(), b"\x89PNG");
    }

    #[test]
    fn parameters_replace_and_add_fields() {
        let more = json!({ "max_completion_tokens": 99, "reasoning_effort": "low" });
        let parameters = more.as_object().unwrap().clone();
        let omit = BTreeSet::from(["temperature".to_string()]);
        let changed = body(&request(b""), &Sampling { parameters, omit, ..sampling() }, 1);
        assert_eq!((&changed["max_completion_tokens"], &changed["reasoning_effort"]), (&json!(99), &json!("low")));
        assert!(changed.get("max_tokens").is_none() && changed.get("temperature").is_none());
    }

    #[test]
    fn key_depends_on_everything_that_determines_the_reply() {
        let key = |request: &ChatRequest, sampling: &Sampling| request.id(sampling);
        let base = key(&request(b"1"), &sampling());
        let parameters = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let others = [
            key(&request(b"2"), &sampling()),
            key(&ChatRequest { system: String::new(), ..request(b"1") }, &sampling()),
            key(&request(b"1"), &Sampling { model: "n".into(), ..sampling() }),
            key(&request(b"1"), &Sampling { revision: Some("step-100".into()), ..sampling() }),
            key(&request(b"1"), &Sampling { temperature: 1.0, ..sampling() }),
            key(&request(b"1"), &Sampling { max_tokens: 65, ..sampling() }),
            key(&request(b"1"), &Sampling { parameters: parameters("{\"top_p\": 0.5}"), ..sampling() }),
            key(&request(b"1"), &Sampling { omit: BTreeSet::from(["temperature".into()]), ..sampling() }),
        ];
        let distinct: BTreeSet<Hash> = others.into_iter().chain([base]).collect();
        assert_eq!(distinct.len(), 9);
        let one = Sampling { parameters: parameters("{\"a\": 1, \"b\": {\"c\": 1, \"d\": 2}}"), ..sampling() };
        let other = Sampling { parameters: parameters("{\"b\": {\"d\": 2, \"c\": 1}, \"a\": 1}"), ..sampling() };
        assert_eq!(key(&request(b"1"), &one), key(&request(b"1"), &other));
        assert_ne!(ChatRequest::sample_key(base, 0), ChatRequest::sample_key(base, 1));
        // Stored replies are found by it, so it must never change.
        assert_eq!(base.short(), "529fd3cef7");
    }
}
