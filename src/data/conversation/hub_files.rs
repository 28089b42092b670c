//! Reads a Hugging Face folder's files about conversations: special tokens by name, token ids with a role, and the
//! source of the chat template. Files are searched in the order of `transformers`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::hub_tokenizer::AddedToken;
use crate::images::gemma3_placeholder;
use crate::tokenizer::FILE;
use ablate_core::base::files;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TOKENS_MAP: &str = "special_tokens_map.json";
/// Ids by token, of transformers 2 to 4.
const ADDED_TOKENS: &str = "added_tokens.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";
const PROCESSOR_CONFIG: &str = "processor_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";

/// Roles of special tokens that every tokenizer of `transformers` has. Their tokens must be in the vocabulary.
pub(super) const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Roles of the tokens that a processor writes around an image.
pub(super) const IMAGE_ROLES: [&str; 6] =
    ["start_image_token", "end_image_token", "boi_token", "eoi_token", "fake_image_token", "global_image_token"];

/// The special tokens of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Special {
    /// Token by role (`bos_token`, ..., and roles of a model such as `image_token`).
    pub(super) named: BTreeMap<String, String>,
    /// Additional special tokens, without a role.
    pub(super) additional: Vec<String>,
    /// Tokens of `added_tokens.json`, which is read only without an `added_tokens_decoder`.
    pub(super) listed: Vec<String>,
    /// Tokens of `added_tokens_decoder`, which replace those of `tokenizer.json`.
    pub(super) added: Vec<AddedToken>,
    /// Id of the image placeholder, and the file and key that define it.
    pub(super) image: Option<(u32, String)>,
    /// The special token that stands for an image in the chat template, if it is not the image token.
    pub(super) placeholder: Option<String>,
    /// Ids of end tokens, and the file and key that define them. The tokenizer's own `eos_token` is in `named`.
    pub(super) ends: Vec<(u32, String)>,
}

/// A chat template and its origin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) text: String,
    /// File and key, for errors.
    pub(super) origin: String,
}

/// Refuses a folder without `tokenizer.json`.
pub(super) fn check_tokenizer(folder: &Path) -> Result<()> {
    if folder.join(FILE).is_file() {
        return Ok(());
    }
    if folder.join("tokenizer.model").is_file() {
        bail!(
            "`{}` has a `tokenizer.model` but no `{FILE}`: only fast tokenizers are supported; \
             `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` of `transformers` writes one",
            folder.display()
        );
    }
    bail!("`{}` has no `{FILE}`", folder.display());
}

/// Reads the special tokens of a folder.
///
/// # Errors
///
/// A file that is not JSON, or a value of the wrong type; the error names file and key.
pub(super) fn special(folder: &Path) -> Result<Special> {
    let mut special = Special::default();
    let mut tokenizer = object(folder, TOKENIZER_CONFIG)?.unwrap_or_default();
    // As in `transformers`: the older file is read only if the newer one does not list all tokens.
    if !tokenizer.contains_key("added_tokens_decoder")
        && let Some(map) = object(folder, TOKENS_MAP)?
    {
        tokenizer.extend(map);
    }
    if !tokenizer.contains_key("added_tokens_decoder")
        && let Some(tokens) = object(folder, ADDED_TOKENS)?
    {
        special.listed.extend(tokens.into_iter().map(|(token, _)| token));
    }
    for (key, value) in &tokenizer {
        let place = || format!("`{key}` of `{TOKENIZER_CONFIG}` or `{TOKENS_MAP}` in `{}`", folder.display());
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("additional_special_tokens" | "extra_special_tokens", Value::Array(tokens)) => {
                for token in tokens {
                    special.additional.extend(content(token).map(str::to_string));
                }
            }
            ("added_tokens_decoder", tokens) => special.added = added(tokens).with_context(place)?,
            ("extra_special_tokens", Value::Object(tokens)) => {
                let tokens =
                    tokens.iter().filter_map(|(role, token)| Some((role.clone(), content(token)?.to_string())));
                let tokens: Vec<(String, String)> = tokens.collect();
                special.additional.extend(tokens.iter().map(|(_, token)| token.clone()));
                special.named.extend(tokens);
            }
            (role, value) if role.ends_with("_token") => match content(value) {
                Some(token) => drop(special.named.insert(role.to_string(), token.to_string())),
                None if ROLES.contains(&role) => bail!("{} is neither a string nor a token", place()),
                // A flag such as `add_bos_token`; `tokenizer.json` defines what is added.
                None => {}
            },
            _ => {}
        }
    }

    if let Some(generation) = object(folder, GENERATION_CONFIG)? {
        special.ends.extend(ids(&generation, "eos_token_id", &folder.join(GENERATION_CONFIG))?);
    }
    let config: Map<String, Value> = files::read_json(&folder.join(CONFIG))?;
    let text = config.get("text_config").and_then(Value::as_object);
    for part in std::iter::once(&config).chain(text) {
        special.ends.extend(ids(part, "eos_token_id", &folder.join(CONFIG))?);
    }
    for key in ["image_token_index", "image_token_id"] {
        let found = ids(&config, key, &folder.join(CONFIG))?;
        match (&special.image, found.as_slice()) {
            (_, []) => {}
            (Some((before, _)), [(id, place)]) if before != id => {
                bail!("{place} is {id}, and `image_token_index` is {before}");
            }
            (_, [one]) => special.image = Some(one.clone()),
            (_, [.., (_, place)]) => bail!("{place} is a list"),
        }
    }
    if config.get("model_type").and_then(Value::as_str) == Some("gemma3") {
        special.placeholder = Some(gemma3_placeholder(folder)?);
    }
    Ok(special)
}

/// The tokens of an `added_tokens_decoder`, in the order of their ids.
fn added(tokens: &Value) -> Result<Vec<AddedToken>> {
    let tokens = tokens.as_object().context("is not an object of tokens by id")?;
    let mut by_id = BTreeMap::new();
    for (id, token) in tokens {
        let number: u32 = id.parse().ok().with_context(|| format!("`{id}` is not the id of a token"))?;
        let content = token.get("content").and_then(Value::as_str);
        let content = content.with_context(|| format!("the token of {id} has no `content`"))?;
        let flag = |name: &str, default: bool| match token.get(name) {
            None => Ok(default),
            Some(value) => value.as_bool().with_context(|| format!("`{name}` of {id} is {value}, not true or false")),
        };
        let special = flag("special", false)?;
        let token = AddedToken::from(content, special)
            .single_word(flag("single_word", false)?)
            .lstrip(flag("lstrip", false)?)
            .rstrip(flag("rstrip", false)?)
            .normalized(flag("normalized", !special)?);
        by_id.insert(number, token);
    }
    Ok(by_id.into_values().collect())
}

/// The chat template of a folder. With `images`, the files of a processor are searched first, as in `transformers`,
/// where a processor formats the conversations of a model that takes images.
///
/// # Errors
///
/// No template. The error names the files that were searched.
pub(super) fn template(folder: &Path, images: bool) -> Result<Template> {
    type Source = fn(&Path, &str) -> Result<Option<Template>>;
    let processor: [(&str, Source); 2] = [(PROCESSOR_CONFIG, from_key), (TEMPLATE_JSON, from_key)];
    let tokenizer: [(&str, Source); 2] = [(TEMPLATE, from_file), (TOKENIZER_CONFIG, from_key)];
    let places: Vec<(&str, Source)> = processor.into_iter().filter(|_| images).chain(tokenizer).collect();
    for (name, source) in &places {
        if let Some(template) = source(folder, name)? {
            return Ok(template);
        }
    }
    let names: Vec<String> = places.iter().map(|(name, _)| format!("`{name}`")).collect();
    let (folder, names) = (folder.display(), names.join(", "));
    bail!("`{folder}` has no chat template: searched {names} (key `chat_template` in JSON files)")
}

/// A template in a separate file.
fn from_file(folder: &Path, name: &str) -> Result<Option<Template>> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(Template { text: files::read_text(&path)?, origin: format!("`{}`", path.display()) }))
}

/// A template under the key `chat_template`: a string, or a list of named templates.
fn from_key(folder: &Path, name: &str) -> Result<Option<Template>> {
    let Some(object) = object(folder, name)? else { return Ok(None) };
    let origin = format!("`chat_template` of `{}`", folder.join(name).display());
    let text = match object.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => Some(text),
        Some(Value::Object(named)) => match named.get("default") {
            Some(Value::String(text)) => Some(text),
            _ => None,
        },
        Some(Value::Array(named)) => named.iter().find_map(|entry| match (entry.get("name"), entry.get("template")) {
            (Some(Value::String(name)), Some(Value::String(text))) if name == "default" => Some(text),
            _ => None,
        }),
        Some(_) => None,
    };
    let text = text.with_context(|| format!("{origin} is not a string and has no template named `default`"))?;
    Ok(Some(Template { text: text.clone(), origin }))
}

pub(super) fn object(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>> {
    let path = folder.join(name);
    if path.is_file() { files::read_json(&path).map(Some) } else { Ok(None) }
}

/// A token's text: a string, or the content of an `AddedToken`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.as_object()?.get("content")?.as_str())
}

/// The ids at a key (none, one, or a list), each with file and key.
fn ids(object: &Map<String, Value>, key: &str, path: &Path) -> Result<Vec<(u32, String)>> {
    let place = format!("`{key}` of `{}`", path.display());
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(|id| (id, place.clone())).with_context(|| format!("{place} has {value}, which is not a token id"))
    };
    match object.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => values.iter().map(id).collect(),
        Some(value) => Ok(vec![id(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(contents: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in contents {
            files::write_atomic(&folder.path().join(name), text.as_bytes()).unwrap();
        }
        folder
    }

    #[test]
    fn special_tokens_are_read_from_all_files() {
        let folder = folder(&[
            ("config.json", r#"{"image_token_index": 9, "text_config": {"eos_token_id": 2}, "eos_token_id": null}"#),
            ("generation_config.json", r#"{"eos_token_id": [3, 4]}"#),
            (
                "tokenizer_config.json",
                r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null,
                    "add_bos_token": true, "image_token": "<image>", "additional_special_tokens": ["<a>"]}"#,
            ),
            ("special_tokens_map.json", r#"{"pad_token": "<pad>"}"#),
        ]);
        let special = special(folder.path()).unwrap();
        let expected =
            [("bos_token", "<s>"), ("eos_token", "</s>"), ("image_token", "<image>"), ("pad_token", "<pad>")];
        assert_eq!(special.named, BTreeMap::from(expected.map(|(role, token)| (role.to_string(), token.to_string()))));
        assert_eq!(special.additional, ["<a>"]);
        assert_eq!(special.image.unwrap().0, 9);
        assert_eq!(special.ends.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [3, 4, 2]);
    }

    #[test]
    fn a_value_of_the_wrong_type_names_file_and_key() {
        let error = |config: &str, tokenizer: &str| {
            let folder = folder(&[("config.json", config), ("tokenizer_config.json", tokenizer)]);
            special(folder.path()).unwrap_err().to_string()
        };
        let negative = error(r#"{"image_token_index": -200}"#, "{}");
        assert!(negative.ends_with("/config.json` has -200, which is not a token id"), "{negative}");
        assert!(error(r#"{"eos_token_id": "x"}"#, "{}").contains("`eos_token_id` of"));
        let two = error(r#"{"image_token_index": 1, "image_token_id": 2}"#, "{}");
        assert!(two.ends_with("is 2, and `image_token_index` is 1"), "{two}");
        assert!(error("{}", r#"{"bos_token": 3}"#).starts_with("`bos_token` of `tokenizer_config.json`"));
        assert!(error("[]", "{}").ends_with("does not contain the expected JSON"));
    }

    #[test]
    fn templates_are_searched_as_in_transformers() {
        let all = [
            ("processor_config.json", r#"{"chat_template": "a"}"#),
            ("chat_template.json", r#"{"chat_template": "b"}"#),
            ("chat_template.jinja", "c"),
            (
                "tokenizer_config.json",
                r#"{"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "d"}]}"#,
            ),
        ];
        for (from, expected) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let folder = folder(&all[from..]);
            assert_eq!(template(folder.path(), true).unwrap().text, expected);
            assert_eq!(template(folder.path(), false).unwrap().text, if from < 3 { "c" } else { "d" });
        }
        let none = folder(&[]);
        let error = template(none.path(), true).unwrap_err().to_string();
        assert!(error.ends_with(
            "has no chat template: searched `processor_config.json`, `chat_template.json`, `chat_template.jinja`, \
             `tokenizer_config.json` (key `chat_template` in JSON files)"
        ));
        let other = folder(&[("tokenizer_config.json", r#"{"chat_template": [{"name": "rag", "template": "x"}]}"#)]);
        assert!(template(other.path(), false).unwrap_err().to_string().contains("no template named `default`"));
    }

    #[test]
    fn a_folder_with_only_a_slow_tokenizer_is_refused() {
        let slow = folder(&[("tokenizer.model", "")]);
        let error = check_tokenizer(slow.path()).unwrap_err().to_string();
        assert!(error.contains("only fast tokenizers are supported"), "{error}");
        assert!(check_tokenizer(folder(&[]).path()).unwrap_err().to_string().ends_with("has no `tokenizer.json`"));
        assert!(check_tokenizer(folder(&[("tokenizer.json", "")]).path()).is_ok());
    }
}
