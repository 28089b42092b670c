//! Renders a chat template as `apply_chat_template` of `transformers` does.
//!
//! The environment is that of `transformers` (`utils/chat_template_utils.py`): `trim_blocks`, `lstrip_blocks`, loop
//! controls, `raise_exception`, Python's `tojson` and methods, the special tokens by name. `strftime_now` is omitted on
//! purpose, because prompts must not depend on the date. Templates that check whether it is defined fall back to the
//! date written in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::jinja_compat;
use ablate_core::base::resource_limits::{Limits, run_limited};

/// Limit of one rendering, in instructions plus 64-byte pieces of text: at most 16 MiB of text.
const FUEL: u64 = 250_000;

/// Limits that fuel does not cover: memory for values that contain another value many times, and nesting depth.
const LIMITS: Limits = Limits { bytes: 128 << 20, requests: 1_000_000, time: Duration::from_secs(20) };

/// Maximum size of a template's source in bytes. The longest published ones have a tenth of it.
const MAX_SOURCE_BYTES: usize = 1 << 19;

/// Maximum depth of calls in a template.
const RECURSION_LIMIT: usize = 200;

/// Name of the template in its environment.
const NAME: &str = "chat";

/// A placeholder for a turn's text when a template is probed: a private-use character, which no template handles
/// specially.
pub(super) const PROBE: &str = "\u{F0002}";

/// The role of a message's author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

/// How a template expects the content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A string.
    Text,
    /// A list of parts: `{"type": "image"}` and `{"type": "text", "text": ..}`.
    Parts,
}

/// A part of a message's content.
#[derive(Clone, Debug)]
pub enum MessagePart {
    Text(String),
    Image,
}

#[derive(Clone, Debug)]
pub struct Message {
    role: Role,
    content: Vec<MessagePart>,
    format: Format,
}

impl Message {
    /// A message with text only.
    pub fn new(role: Role, text: &str, format: Format) -> Message {
        Message { role, content: vec![MessagePart::Text(text.to_string())], format }
    }

    /// A message with images and texts, as parts.
    pub fn with_parts(role: Role, content: Vec<MessagePart>) -> Message {
        Message { role, content, format: Format::Parts }
    }

    /// The value passed to the template: `{"role": .., "content": ..}`.
    fn value(&self) -> Value {
        let role = match self.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let content = match self.format {
            Format::Text => {
                let text =
                    |part: &MessagePart| if let MessagePart::Text(text) = part { text.clone() } else { String::new() };
                Value::from(self.content.iter().map(text).collect::<String>())
            }
            Format::Parts => self.content.iter().map(MessagePart::value).collect(),
        };
        Value::from_pairs([("role", Value::from(role)), ("content", content)])
    }
}

impl MessagePart {
    fn value(&self) -> Value {
        match self {
            MessagePart::Image => Value::from_pairs([("type", "image")]),
            MessagePart::Text(text) => Value::from_pairs([("type", "text"), ("text", text.as_str())]),
        }
    }
}

#[derive(Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// Origin of the template, for errors.
    origin: String,
    /// `bos_token` and the other special tokens by name.
    variables: Arc<BTreeMap<String, String>>,
}

impl ChatTemplate {
    /// Compiles a template. `origin` names its file in errors; `variables` are the special tokens.
    pub fn new(source: &str, origin: &str, variables: BTreeMap<String, String>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| anyhow!("BUG: the syntax of chat templates: {error}"))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_unknown_method_callback(jinja_compat::method);
        environment.add_filter("tojson", jinja_compat::to_json);
        environment.add_filter("trim", jinja_compat::trim);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        if source.len() > MAX_SOURCE_BYTES {
            bail!("the chat template of {origin} has {} bytes: at most {MAX_SOURCE_BYTES} are allowed", source.len());
        }
        let source = source.to_string();
        let compile = move || match environment.add_template_owned(NAME, jinja_compat::source(&source)) {
            Ok(()) => Ok(environment),
            Err(error) => Err(described(&error)),
        };
        let environment = run_limited(LIMITS, compile)
            .unwrap_or_else(|exceeded| Err(anyhow!("{exceeded}")))
            .with_context(|| format!("the chat template of {origin}"))?;
        let (environment, variables) = (Arc::new(environment), Arc::new(variables));
        Ok(ChatTemplate { environment, origin: origin.to_string(), variables })
    }

    /// Renders `messages`. With `open`, the template adds the beginning of the assistant's next turn
    /// (`add_generation_prompt`).
    ///
    /// # Errors
    ///
    /// Errors of the template, including `raise_exception`, with the line; also a template that does not terminate.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<String> {
        let (environment, variables, messages) = (self.environment.clone(), self.variables.clone(), messages.to_vec());
        let render = move || {
            let standard = [
                ("messages", messages.iter().map(Message::value).collect()),
                ("tools", Value::from(())),
                ("documents", Value::from(())),
                ("add_generation_prompt", Value::from(open)),
            ];
            let named = variables.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
            let context = Value::from_pairs(named.chain(standard));
            let rendered = environment.get_template(NAME).and_then(|template| template.render(context));
            rendered.map_err(|error| described(&error))
        };
        run_limited(LIMITS, render)
            .unwrap_or_else(|exceeded| Err(anyhow!("{exceeded}")))
            .with_context(|| format!("the chat template of {}", self.origin))
    }

    /// Origin of the template, for errors.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Finds the content format of a message of the chat that `chat` builds: `preferred` if the template then writes the
    /// message's text, a [`PROBE`], otherwise the other one.
    pub(super) fn format_of(
        &self,
        preferred: Format,
        chat: impl Fn(Format) -> Vec<Message>,
        open: bool,
    ) -> Result<Format> {
        let other = match preferred {
            Format::Text => Format::Parts,
            Format::Parts => Format::Text,
        };
        let mut failure = None;
        for format in [preferred, other] {
            match self.render(&chat(format), open) {
                Ok(text) if writes_the_probe(&text) => return Ok(format),
                Ok(_) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => bail!("the chat template of {} does not write the text of a message", self.origin),
        }
    }
}

/// Whether the rendered text contains the probe as such. A template with the wrong content format writes the probe in
/// quotes, as part of a Python list.
fn writes_the_probe(text: &str) -> bool {
    let quoted = ['\'', '"'].iter().any(|quote| text.contains(&format!("{quote}{PROBE}{quote}")));
    text.contains(PROBE) && !quoted
}

/// A template's error with its line.
fn described(error: &Error) -> anyhow::Error {
    let message = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "does not terminate, or writes too much".to_string(),
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => anyhow!("line {line}: {message}"),
        None => anyhow!(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str) -> Result<String> {
        let variables = BTreeMap::from([("bos_token".to_string(), "<s>".to_string())]);
        let template = ChatTemplate::new(source, "`x`", variables)?;
        template.render(&[Message::new(Role::User, " hi ", Format::Text)], true)
    }

    #[test]
    fn a_template_has_the_environment_of_transformers() {
        let same = |source: &str, expected: &str| assert_eq!(rendered(source).unwrap(), expected, "{source}");
        same("{{ bos_token }}{{ messages[0]['content'] | trim }}{{ messages[0].role }}", "<s>hiuser");
        let skipped = "{% for x in [1, 2, 3] %}\n    {% if x == 2 %}{% continue %}{% endif %}\n{{ x }}\n{% endfor %}\n";
        same(skipped, "1\n3\n");
        same("a {% generation %}\nb\n  {%- endgeneration -%}  c\n", "a bc");
        same("{{ {'a': 'é\"<\\n', 'b': [1, true, none]} | tojson }}", r#"{"a": "é\"<\n", "b": [1, true, null]}"#);
        same("{{ [{'b': 1, 'a': []}] | tojson(indent=2) }}", "[\n  {\n    \"b\": 1,\n    \"a\": []\n  }\n]");
        same("{{ {'b': 'é', 'a': 2} | tojson(ensure_ascii=true, sort_keys=true) }}", r#"{"a": 2, "b": "\u00e9"}"#);
        same("{{ strftime_now is defined }} {{ tools is none }} {{ nothing }}", "False True ");
        same("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = 7 %}{% endfor %}{{ ns.n }}", "7");
        same("{{ '\u{1c} a\t'.strip() }}|{{ 'ab'.removeprefix('a') }}|{{ 'a,b'.split(',')[-1] }}", "a|b|b");
        same("a\r\nb", "a\nb");
    }

    #[test]
    fn errors_in_a_template_name_the_line() {
        let error = |source: &str| format!("{:#}", rendered(source).unwrap_err());
        assert_eq!(error("\n{{ raise_exception('no system') }}"), "the chat template of `x`: line 2: no system");
        let broken = error("a\n\n{% if %}");
        assert!(broken.starts_with("the chat template of `x`: line 3: syntax error"), "{broken}");
        assert!(error("{{ messages[0].a.b }}").contains("line 1: undefined value"));
        assert!(error("{{ no_such() }}").contains("line 1: unknown function"));
        assert!(error("{{ strftime_now('%d') }}").contains("line 1: unknown function"));
        let endless = "line 1: does not terminate, or writes too much";
        for template in [
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "{% set ns = namespace(t='ab') %}{% for a in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
        ] {
            assert!(error(template).contains(endless), "{}", error(template));
        }
        assert!(error("{{ 'x' * 999999999999 }}").contains("line 1"));
        let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(error(recursion).contains("recursion"), "{}", error(recursion));
        let deep = format!("{}1{}", "{{ ".to_string() + &"(".repeat(5000), ")".repeat(5000) + " }}");
        assert!(error(&deep).contains("recursion"));
    }

    #[test]
    fn exponential_or_deep_values_are_errors() {
        let error = |source: &str| format!("{:#}", rendered(source).unwrap_err());
        let double = "{% set ns = namespace(a=[1], b=[1]) %}\
                      {% for i in range(40) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
        for use_it in [
            "{{ ns.a | tojson }}",
            "{{ ns.a | string | length }}",
            "{{ ns.a == ns.b }}",
            "{{ ns.a ~ 'x' }}",
            "{{ [ns.a, ns.b] | unique | list | length }}",
        ] {
            let message = error(&format!("{double}{use_it}"));
            let reasons = ["needs too much memory", "does not come to an end, or walks too large a structure"];
            assert!(reasons.iter().any(|reason| message.ends_with(reason)), "{use_it}: {message}");
        }
        let nest = "{% set ns = namespace(a=[1]) %}{% for i in range(15000) %}{% set ns.a = [ns.a] %}{% endfor %}";
        assert_eq!(rendered(&format!("{nest}{{{{ ns.a | length }}}}")).unwrap(), "1");
        let deep = error(&format!("{nest}{nest}{}", "{{ ns.a | string }}{{ ns.a == [ns.a] }}"));
        let reasons = ["nests too deeply", "does not come to an end", "does not terminate"];
        assert!(reasons.iter().any(|reason| deep.contains(reason)), "{deep}");
        assert!(error("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}").ends_with("nests too deeply"));
        let long = "x".repeat(MAX_SOURCE_BYTES + 1);
        assert_eq!(error(&long), "the chat template of `x` has 524289 bytes: at most 524288 are allowed");
    }

    #[test]
    fn the_content_format_is_found_by_probing() {
        let found = |source: &str, preferred| {
            let template = ChatTemplate::new(source, "`x`", BTreeMap::new()).unwrap();
            template.format_of(preferred, |format| vec![Message::new(Role::User, PROBE, format)], true)
        };
        let string = "{{ messages[0]['content'] }}";
        let parts = "{% for part in messages[0]['content'] %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}";
        let either = format!("{{% if messages[0]['content'] is string %}}{string}{{% else %}}{parts}{{% endif %}}");
        for preferred in [Format::Text, Format::Parts] {
            assert_eq!(found(string, preferred).unwrap(), Format::Text);
            assert_eq!(found(parts, preferred).unwrap(), Format::Parts);
            assert_eq!(found(&either, preferred).unwrap(), preferred);
        }
        let error = found("nothing", Format::Text).unwrap_err().to_string();
        assert_eq!(error, "the chat template of `x` does not write the text of a message");
    }
}
