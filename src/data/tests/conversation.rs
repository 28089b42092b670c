//! Ids and rendered chats against those of `transformers` (`tests/golden/make_chat.py`), and invalid folders.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use anyhow::{Result, bail};

use crate::chat_prompt::ChatPrompt;
use crate::conversation::hub_tokenizer::{HubTokenizer, Sentinels};
use crate::conversation::{Conversation, Format, Message, MessagePart, Role};
use crate::image_keys::ImageKeys;
use crate::image_text::ImageText;
use crate::records::Exchange;
use crate::tests::support::golden;
use crate::tokens;
use ablate_core::base::files;

fn chat_golden(name: &str) -> PathBuf {
    golden("chat").join(name)
}

#[derive(Deserialize)]
struct Folder {
    name: String,
    tokenizer: String,
    files: BTreeMap<String, Value>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Chat {
    system: Option<String>,
    image: bool,
    user: String,
    response: String,
    prompt: String,
    prompt_ids: Vec<u32>,
    whole: String,
    whole_ids: Vec<u32>,
}

impl Folder {
    fn all() -> Vec<Folder> {
        files::read_json(&chat_golden("chats.json")).unwrap()
    }

    fn named(name: &str) -> Folder {
        Folder::all().into_iter().find(|folder| folder.name == name).unwrap()
    }

    /// Writes the folder as a hub would provide it.
    fn write(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files::copy(&chat_golden(&format!("{}.json", self.tokenizer)), &folder.path().join("tokenizer.json")).unwrap();
        for (name, value) in &self.files {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            files::write_atomic(&folder.path().join(name), text.as_bytes()).unwrap();
        }
        folder
    }

    fn read(&self) -> Result<Conversation> {
        Conversation::read(self.write().path())
    }

    /// The folder `chatml` with another template.
    fn with_template(template: &str) -> Folder {
        let mut folder = Folder::named("chatml");
        folder.files.get_mut("tokenizer_config.json").unwrap()["chat_template"] = json!(template);
        folder
    }

    /// The error after setting a key of a file.
    fn error_with(mut self, file: &str, key: &str, value: Value) -> String {
        self.files.get_mut(file).unwrap()[key] = value;
        format!("{:#}", self.read().unwrap_err())
    }
}

fn one_image() -> ImageKeys {
    ImageKeys::Leading("key".into())
}

/// A question without an image.
fn ask(text: &str) -> ChatPrompt<'_> {
    ChatPrompt::new(&ImageKeys::None, text)
}

/// The ids of the prompt and of the target.
fn sequence(
    conversation: &Conversation,
    chat: &ChatPrompt,
    response: &str,
    truncated: bool,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let encoded = conversation.sequence(chat, &runs(chat), response, truncated, false)?;
    assert!(encoded.loss.iter().all(|is_target| !is_target), "a single turn has no history");
    Ok((encoded.prompt, encoded.target))
}

#[test]
fn strings_have_the_ids_of_transformers() {
    let strings: Vec<String> = files::read_json(&chat_golden("strings.json")).unwrap();
    assert_eq!(strings.len(), 1000);
    let sentinels = Sentinels::not_in(&strings.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    for name in ["llama2", "mistral", "llama3", "qwen2"] {
        let folder = tempfile::tempdir().unwrap();
        files::copy(&chat_golden(&format!("{name}.json")), &folder.path().join("tokenizer.json")).unwrap();
        let hub_tokenizer = HubTokenizer::read(folder.path(), &[], Vec::new()).unwrap();
        let bytes = files::read_bytes(&chat_golden(&format!("{name}.ids"))).unwrap();
        let mut packed = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])));
        let decoded: BTreeMap<usize, String> = files::read_json(&chat_golden(&format!("{name}.decoded.json"))).unwrap();
        for (index, string) in strings.iter().enumerate() {
            let count = packed.next().unwrap() as usize;
            let expected: Vec<u32> = packed.by_ref().take(count).collect();
            assert_eq!(hub_tokenizer.ids(string, sentinels, false).unwrap(), expected, "{name} {index}: {string:?}");
            let text = hub_tokenizer.plain.decode(&expected).unwrap();
            assert_eq!(&text, decoded.get(&index).unwrap_or(string), "{name} {index}");
            let pieces = hub_tokenizer.pieces(string, sentinels, false).unwrap();
            assert_eq!((pieces.len(), &pieces.concat()), (count, string), "{name} {index}");
        }
        assert_eq!(packed.next(), None);
    }
}

/// Images of one feature.
fn one_run(images: usize) -> Vec<ImageText> {
    vec![ImageText::run(1); images]
}

fn runs(chat: &ChatPrompt) -> Vec<ImageText> {
    one_run(chat.images.keys().len())
}

/// The ids with one placeholder per image; the golden ids have four.
fn with_one_placeholder(conversation: &Conversation, ids: &[u32]) -> Vec<u32> {
    let mut ids = ids.to_vec();
    ids.dedup_by(|one, other| one == other && Some(*one) == conversation.image_token());
    ids
}

#[test]
fn chats_have_the_text_and_ids_of_transformers() {
    let mut apart = 0;
    for folder in Folder::all() {
        let conversation = folder.read().unwrap();
        for chat in &folder.chats {
            let place = format!("{}: {:?} {:?}", folder.name, chat.user, chat.response);
            let plain = Sentinels::not_in(&[]).unwrap();
            let user = if chat.image {
                Message::with_parts(Role::User, vec![MessagePart::Image, MessagePart::Text(chat.user.clone())])
            } else {
                Message::new(Role::User, &chat.user, conversation.user)
            };
            let answer = Message::new(Role::Assistant, &chat.response, conversation.assistant);
            let system = chat.system.iter().map(|text| Message::new(Role::System, text, conversation.user));
            let mut messages: Vec<Message> = system.chain([user]).collect();
            assert_eq!(conversation.render(&messages, true).unwrap(), chat.prompt, "{place}");
            if chat.system.is_some() {
                let ids = conversation.prompt_ids(&chat.prompt, plain, &one_run(usize::from(chat.image))).unwrap();
                assert_eq!(ids, with_one_placeholder(&conversation, &chat.prompt_ids), "{place}");
            }
            messages.push(answer);
            assert_eq!(conversation.render(&messages, false).unwrap(), chat.whole, "{place}");
            if chat.system.is_some() {
                continue;
            }

            let images = if chat.image { one_image() } else { ImageKeys::None };
            let user = ChatPrompt::new(&images, &chat.user);
            let encode = |truncated| sequence(&conversation, &user, &chat.response, truncated).unwrap();
            let (prompt, target) = encode(false);
            assert_eq!(prompt, conversation.prompt(&user, &runs(&user)).unwrap());
            assert_eq!(prompt, with_one_placeholder(&conversation, &chat.prompt_ids), "{place}");
            let whole = with_one_placeholder(&conversation, &chat.whole_ids);
            let (last, before) = target.split_last().unwrap();
            assert!(conversation.stop_tokens().contains(last), "{place}");
            if conversation.block.is_some() {
                // The empty block before the answer is left out.
                let answer = encode(true).1;
                assert!(whole.windows(answer.len()).any(|ids| ids == answer), "{place}");
            } else if whole.starts_with(&prompt) {
                // Without the end that the template does not write.
                let expected = [prompt.as_slice(), before].concat();
                assert!(whole.starts_with(&expected), "{place}: {expected:?} {whole:?}");
            } else {
                apart += 1;
            }
            let pieces = conversation.pieces(&user, &runs(&user), &chat.response, false).unwrap();
            assert_eq!(pieces.len(), target.len(), "{place}");
        }
    }
    assert_eq!(apart, 0);
}

#[test]
fn an_image_token_is_repeated_per_feature() {
    for folder in Folder::all().iter().filter(|folder| folder.chats.iter().any(|chat| chat.image)) {
        let count = |key: &str| if key == "key" { Ok(ImageText::run(4)) } else { bail!("there is none") };
        let layout = tokens::ChatEncoder::from_conversation(folder.read().unwrap(), Arc::new(count), 500);
        for chat in folder.chats.iter().filter(|chat| chat.image && chat.system.is_none()) {
            let prompt = layout.encode_prompt("1", &ChatPrompt::new(&one_image(), &chat.user)).unwrap();
            assert_eq!(prompt.tokens, chat.prompt_ids, "{}: {:?}", folder.name, chat.user);
            let row = layout
                .encode_sequence(&ChatPrompt::new(&one_image(), &chat.user), &chat.response, false, true)
                .unwrap();
            assert!(row.tokens.starts_with(&prompt.tokens));
            assert_eq!(row.loss.iter().filter(|loss| !**loss).count(), prompt.tokens.len());
        }
        let error = layout.encode_prompt("1", &ChatPrompt::new(&ImageKeys::Leading("other".into()), "a")).unwrap_err();
        assert_eq!(format!("{error:#}"), "item `1`: image `other`: there is none");
    }
}

#[test]
fn a_target_ends_with_the_first_stop_token() {
    let target = |folder: &str, response: &str, truncated: bool| {
        Folder::named(folder).read().unwrap().pieces(&ask("a"), &[], response, truncated).unwrap().concat()
    };
    // The template writes no stop token: `eos` is appended, without the template's space.
    assert_eq!(target("vicuna", "Yes.", false), " Yes.</s>");
    assert_eq!(target("inst", "Yes.", false), " Yes.</s>");
    assert_eq!(target("headers", " Yes. ", false), "Yes.<|eot_id|>");
    // The line break after it is not trained on.
    assert_eq!(target("chatml", "Yes.", false), "Yes.<|im_end|>");
    assert_eq!(target("thinking", "Yes.", false), "Yes.<|im_end|>");
    for folder in ["vicuna", "inst", "headers", "chatml"] {
        assert_eq!(target(folder, "Yes.", true).trim(), "Yes.");
        assert_eq!(target(folder, "", true).trim(), "");
    }
    assert_eq!(target("chatml", "", false), "<|im_end|>");
}

#[test]
fn text_never_becomes_a_special_token() {
    for (folder, token) in
        [("inst", "</s>"), ("chatml", "<|im_end|>"), ("headers", "<|eot_id|>"), ("vicuna", "<image>")]
    {
        let conversation = Folder::named(folder).read().unwrap();
        let id = conversation.hub_tokenizer.id(token).unwrap();
        let count = |ids: &[u32]| ids.iter().filter(|one| **one == id).count();
        let (prompt, target) = sequence(&conversation, &ask("a"), "b", false).unwrap();
        let text = format!("{token}a{token}{token} b");
        let (spelled, answered) = sequence(&conversation, &ask(&text), &text, false).unwrap();
        assert_eq!((count(&spelled), count(&answered)), (count(&prompt), count(&target)), "{folder}");
        let pieces = conversation.pieces(&ask(&text), &[], &text, true).unwrap();
        assert_eq!(pieces.concat().trim(), text);
        assert!(!conversation.tokenizer().encode(&text).unwrap().contains(&id));
    }
}

#[test]
fn a_text_template_gets_the_image_before_the_text() {
    let mut folder = Folder::named("chatml");
    folder.files.get_mut("config.json").unwrap()["image_token_id"] = json!(1503);
    let conversation = folder.read().unwrap();
    assert_eq!(conversation.user, Format::Text);
    let image = conversation.image_token().unwrap();
    let prompt = conversation.prompt(&ChatPrompt::new(&one_image(), "How many?"), &one_run(1)).unwrap();
    assert_eq!(prompt.iter().filter(|id| **id == image).count(), 1);
    assert!(conversation.tokenizer().decode(&prompt).unwrap().contains("user\n<image>\nHow many?"));
    let none = Folder::named("chatml").read().unwrap();
    assert!(
        none.prompt(&ChatPrompt::new(&one_image(), "a"), &one_run(1))
            .unwrap_err()
            .to_string()
            .starts_with("the model takes no images")
    );
}

#[test]
fn a_folder_without_a_template_can_be_given_one() {
    let mut folder = Folder::named("chatml");
    folder.files.remove("tokenizer_config.json");
    let error = folder.read().unwrap_err().to_string();
    let searched = "searched `chat_template.jinja`, `tokenizer_config.json` (key `chat_template` in JSON files)";
    assert!(error.ends_with(searched), "{error}");
    let given = |template: &str| {
        let folder = folder.write();
        files::write_atomic(&folder.path().join("chat_template.jinja"), template.as_bytes()).unwrap();
        Conversation::read(folder.path())
    };
    let conversation = given("{% for m in messages %}{{ m.content }}\n{% endfor %}").unwrap();
    let eos = conversation.stop_tokens().to_vec();
    let (prompt, target) = sequence(&conversation, &ask("a"), "b", false).unwrap();
    assert_eq!(conversation.tokenizer().decode(&prompt).unwrap(), "a\n");
    assert!(eos.contains(target.last().unwrap()));
    let error = format!("{:#}", given("{% if %}").unwrap_err());
    assert!(error.contains("chat_template.jinja") && error.contains("line 1: syntax error"), "{error}");
}

#[test]
fn a_template_that_repeats_a_response_is_an_error() {
    let error = |template: &str| {
        let conversation = Folder::with_template(template).read().unwrap();
        format!("{:#}", sequence(&conversation, &ask("a"), "b", false).unwrap_err())
    };
    let twice = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}";
    assert!(error(twice).ends_with("the chat template writes a response 2 times"));
}

#[test]
fn training_uses_the_opening_of_generation() {
    // As in LLaVA's templates for Qwen2: a line break before a generated answer, a space before a given one.
    let template = "{% for m in messages %}{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}\
                    {% if add_generation_prompt %}assistant\n{% endif %}";
    let conversation = Folder::with_template(template).read().unwrap();
    let (prompt, target) = sequence(&conversation, &ask("a"), "b", false).unwrap();
    assert_eq!(prompt, conversation.prompt(&ask("a"), &[]).unwrap());
    let text = |ids: &[u32]| conversation.tokenizer().decode(ids).unwrap();
    assert_eq!((text(&prompt).as_str(), text(&target).as_str()), ("user a<|im_end|>assistant\n", "b<|im_end|>"));
}

#[test]
fn a_thinking_block_is_not_part_of_the_answer() {
    let thinking = Folder::named("thinking").read().unwrap();
    let answer = |conversation: &Conversation, text: &str| text[conversation.thinking(text)..].to_string();
    assert_eq!(answer(&thinking, "<think>\nTwo and two.\n</think>\n\n4"), "4");
    assert_eq!(answer(&thinking, "<think>\nTwo and"), "");
    assert_eq!(answer(&thinking, "4"), "4");
    // Training targets equal generated responses.
    let given = |conversation: &Conversation, response: &str, truncated| {
        conversation.pieces(&ask("a"), &[], response, truncated).unwrap().concat()
    };
    let whole = "<think>\nTwo and two.\n</think>\n\n4";
    assert_eq!(given(&thinking, whole, false), format!("{whole}<|im_end|>"));
    let plain = Folder::named("chatml").read().unwrap();
    assert_eq!(plain.thinking(whole), 0);

    let with = |template: &str| Folder::with_template(template).read();
    // As in DeepSeek-R1: the prompt opens a block, and the blocks of given answers are removed.
    let opened = with(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}\
         {% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    )
    .unwrap();
    assert_eq!(answer(&opened, "Two and two.\n</think>\n\n4"), "4");
    assert_eq!(answer(&opened, "Two and"), "");
    assert_eq!(given(&opened, "4", false), "\n</think>\n\n4<|im_end|>");
    assert_eq!(given(&opened, whole, false), "Two and two.\n</think>\n\n4<|im_end|>");
    assert_eq!(given(&opened, "Two and", true), "Two and");
}

#[test]
fn ignoring_add_generation_prompt_is_an_error() {
    let with = |template: &str| Folder::with_template(template).read().map(|_| ()).map_err(|error| error.to_string());
    let error =
        with("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}").unwrap_err();
    let ignores = "ignores `add_generation_prompt`: it writes \"<|im_start|>assistant\" before an answer, \
                   but a prompt ends without it";
    assert!(error.ends_with(&format!("tokenizer_config.json` {ignores}")), "{error}");
    // Here only white space precedes an answer.
    assert_eq!(with("{% for m in messages %}{{ m.content }}\n{% endfor %}"), Ok(()));
    let spaced = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
                  {% else %} {{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(with(spaced), Ok(()));
}

/// The texts of the targets of a conversation: of each earlier response, and of the last one.
fn targets(conversation: &Conversation, chat: &ChatPrompt) -> Result<Vec<String>> {
    let encoded = conversation.sequence(chat, &runs(chat), "last", false, false)?;
    let decode = |ids: &[u32]| conversation.hub_tokenizer.plain.decode(ids);
    let mut targets = Vec::new();
    let mut at = 0;
    for span in encoded.loss.chunk_by(|one, other| one == other) {
        let end = at + span.len();
        if span[0] {
            targets.push(decode(&encoded.prompt[at..end])?);
        }
        at = end;
    }
    targets.push(decode(&encoded.target)?);
    Ok(targets)
}

fn exchanges(turns: &[(&str, &str)]) -> Vec<Exchange> {
    let exchange = |&(prompt, response): &(&str, &str)| Exchange { prompt: prompt.into(), response: response.into() };
    turns.iter().map(exchange).collect()
}

#[test]
fn every_response_of_a_conversation_is_a_target() {
    let history = exchanges(&[("a", "First."), ("First.", "</s> <|im_end|> x"), ("c", "")]);
    let chat = |system| ChatPrompt { images: &ImageKeys::None, system, history: &history, prompt: "d" };
    let of = |folder: &str, system| targets(&Folder::named(folder).read().unwrap(), &chat(system)).unwrap();
    let chatml = ["First.<|im_end|>", "</s> <|im_end|> x<|im_end|>", "<|im_end|>", "last<|im_end|>"];
    assert_eq!(of("chatml", None), chatml);
    assert_eq!(of("chatml", Some("First.")), chatml);
    // The template writes no end of a response, so only the last one gets it.
    assert_eq!(of("vicuna", None), ["First.", "</s> <|im_end|> x", "", "last</s>"]);
    for (folder, end) in
        [("inst", "</s>"), ("headers", "<|eot_id|>"), ("parts", "<|im_end|>"), ("thinking", "<|im_end|>")]
    {
        let expected = ["First.", "</s> <|im_end|> x", "", "last"].map(|text| format!("{text}{end}"));
        assert_eq!(of(folder, None), expected, "{folder}");
    }
}

#[test]
fn a_template_that_changes_earlier_turns_is_understood_or_refused() {
    let history = exchanges(&[("a", " First. "), ("b", "<think>\nx\n</think>\n\nSecond.")]);
    let chat = ChatPrompt { images: &ImageKeys::None, system: None, history: &history, prompt: "d" };
    let turns = |content: &str| {
        let template = format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{{{ {content} }}}}<|im_end|>\n{{% endfor %}}\
             {{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
        );
        let conversation = Folder::with_template(&template).read().unwrap();
        targets(&conversation, &chat).map_err(|error| format!("{error:#}"))
    };
    let ended = |texts: [&str; 3]| Ok(texts.map(|text| format!("{text}<|im_end|>")).to_vec());
    assert_eq!(turns("m.content"), ended([" First. ", "<think>\nx\n</think>\n\nSecond.", "last"]));
    assert_eq!(turns("m.content | trim"), ended(["First.", "<think>\nx\n</think>\n\nSecond.", "last"]));
    assert_eq!(turns("m.content.split('</think>')[-1].strip()"), ended(["First.", "Second.", "last"]));
    let error = turns("m.content ~ (loop.previtem.content | length if loop.previtem is defined else '')").unwrap_err();
    let expected = "the chat template writes an earlier response differently, depending on other turns, so that the loss \
                    cannot cover it: `mask_history = true` trains on the last response only";
    assert!(error.ends_with(expected), "{error}");
    let twice = turns("m.content ~ (m.content if not loop.last else '')").unwrap_err();
    assert!(twice.ends_with("the chat template does not write every earlier turn once"), "{twice}");
}

#[test]
fn masked_history_needs_no_spans() {
    let template = "{% for m in messages %}{{ m.role }} {{ m.content }} {{ messages | length if m.role == 'assistant' }}\
                    <|im_end|>{% endfor %}{% if add_generation_prompt %}assistant {% endif %}";
    let conversation = Folder::with_template(template).read().unwrap();
    let history = exchanges(&[("a", "b")]);
    let chat = ChatPrompt { history: &history, ..ask("c") };
    let encoded = conversation.sequence(&chat, &runs(&chat), "d", false, true).unwrap();
    assert!(encoded.loss.iter().all(|is_target| !is_target) && encoded.loss.len() == encoded.prompt.len());
}

#[test]
fn a_template_must_write_every_text() {
    let refused = |template: &str, chat: &ChatPrompt| {
        let error = Folder::with_template(template).read().unwrap().prompt(chat, &runs(chat)).unwrap_err();
        let error = format!("{error:#}");
        error.split(" of `").next().unwrap().to_string() + error.split("tokenizer_config.json`").last().unwrap()
    };
    let only_user = "{% for m in messages if m.role != 'system' %}{{ m.content }}<|im_end|>{% endfor %}";
    let system = ChatPrompt { system: Some("Be brief."), ..ask("a") };
    let expected = "a system message is not possible: the chat template does not write the text of a message";
    assert_eq!(refused(only_user, &system), expected);
    let no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
                     {% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
    let expected = "a system message is not possible: the chat template: line 1: no system";
    assert_eq!(refused(no_system, &system), expected);
    let history = exchanges(&[("first", "yes")]);
    let last_two = "{% for m in messages[-2:] %}{{ m.content }}<|im_end|>{% endfor %}";
    let error = refused(last_two, &ChatPrompt { history: &history, ..ask("a") });
    assert_eq!(error, "the chat template does not write a text of the user: \"first\"");
}

#[test]
fn placed_images_are_parts_of_the_turns() {
    let images = ImageKeys::Placed(vec!["a".into(), "b".into(), "c".into()]);
    let history = exchanges(&[("<image> or <image>?", "The first.")]);
    let chat = ChatPrompt { images: &images, system: None, history: &history, prompt: "And \\<image>? <image>" };
    let prompt = |conversation: &Conversation| {
        let ids = conversation.prompt(&chat, &runs(&chat)).unwrap();
        let image = conversation.image_token().unwrap();
        assert_eq!(ids.iter().filter(|id| **id == image).count(), 3);
        conversation.tokenizer().decode(&ids).unwrap()
    };
    // These templates write the images of a message before its text.
    assert_eq!(
        prompt(&Folder::named("parts").read().unwrap()),
        "<|im_start|>user\n<image>\n<image>\n or ?<|im_end|>\n<|im_start|>assistant\nThe first.<|im_end|>\n\
         <|im_start|>user\n<image>\nAnd <image>? <|im_end|>\n<|im_start|>assistant\n"
    );
    let in_order = "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}\
                    {% for part in m.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}\
                    {% endfor %}{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let text_only = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}\
                     {% if add_generation_prompt %}assistant: {% endif %}";
    for template in [in_order, text_only] {
        let mut folder = Folder::with_template(template);
        folder.files.get_mut("config.json").unwrap()["image_token_id"] = json!(1503);
        let expected = "user: <image> or <image>?<|im_end|>assistant: The first.<|im_end|>user: And <image>? <image><|im_end|>\
                        assistant: ";
        assert_eq!(prompt(&folder.read().unwrap()), expected);
    }
    let none = Folder::named("chatml").read().unwrap().prompt(&chat, &runs(&chat)).unwrap_err();
    assert!(none.to_string().starts_with("the model takes no images"), "{none}");
}

#[test]
fn added_tokens_decoder_overrides_the_tokenizer() {
    let folder = |id: &str, token: Value| {
        let mut folder = Folder::named("chatml");
        folder.files.get_mut("tokenizer_config.json").unwrap()["added_tokens_decoder"] = json!({ id: token });
        folder
    };
    let ids = |token: Value| {
        let conversation = folder("1502", token).read().unwrap();
        let plain = Sentinels::not_in(&[]).unwrap();
        conversation.prompt_ids("a <|im_end|> b", plain, &[]).unwrap()
    };
    let same = ids(json!({"content": "<|im_end|>", "special": true}));
    assert_eq!(same.iter().filter(|&&id| id == 1502).count(), 1);
    // It takes the space before it, or after it.
    let (left, right) = (
        ids(json!({"content": "<|im_end|>", "special": true, "lstrip": true})),
        ids(json!({"content": "<|im_end|>", "special": true, "rstrip": true})),
    );
    assert_eq!((left.len(), right.len()), (same.len() - 1, same.len()));
    assert_ne!(right, same);

    let error = |id: &str, token: Value| format!("{:#}", folder(id, token).read().unwrap_err());
    let missing = error("9", json!({"content": "<none>"}));
    assert!(missing.starts_with("the token `<none>` (`added_tokens_decoder` of `tokenizer_config.json`) is not in"));
    assert!(error("x", json!({"content": "a"})).ends_with(": `x` is not the id of a token"));
    assert!(error("9", json!({})).ends_with(": the token of 9 has no `content`"));
    let wrong = error("9", json!({"content": "a", "lstrip": null}));
    assert!(wrong.ends_with(": `lstrip` of 9 is null, not true or false"), "{wrong}");
}

#[test]
fn ids_and_tokens_must_be_in_the_vocabulary() {
    let error = Folder::named("parts").error_with("config.json", "image_token_index", json!(9999));
    assert!(error.ends_with("/config.json` is 9999, which is not in the vocabulary of `tokenizer.json`"), "{error}");
    let error = Folder::named("parts").error_with("config.json", "image_token_index", json!(70));
    assert!(error.ends_with("is not a special token of `tokenizer.json`"), "{error}");
    let error = Folder::named("parts").error_with("generation_config.json", "eos_token_id", json!([4, 4_000_000]));
    assert!(error.contains("generation_config.json` is 4000000, which is not in"), "{error}");
    let error = Folder::named("parts").error_with("tokenizer_config.json", "bos_token", json!("<none>"));
    assert_eq!(error, "the token `<none>` (bos_token) is not in the vocabulary of `tokenizer.json`");
    let error = Folder::named("parts").error_with("tokenizer_config.json", "start_image_token", json!("<none>"));
    assert_eq!(error, "the token `<none>` (start_image_token) is not in the vocabulary of `tokenizer.json`");
    let error =
        Folder::named("parts").error_with("tokenizer_config.json", "extra_special_tokens", json!({"a": "<none>"}));
    assert_eq!(error, "the token `<none>` (of the special tokens) is not in the vocabulary of `tokenizer.json`");
    let mut listed = Folder::named("parts");
    listed.files.insert("added_tokens.json".into(), json!({"<|im_end|>": 1502, "<none>": 1600}));
    let error = listed.read().unwrap_err().to_string();
    assert_eq!(error, "the token `<none>` (added_tokens.json) is not in the vocabulary of `tokenizer.json`");
    let conversation = Folder::named("parts").read().unwrap();
    let error = conversation.tokenizer().check_embedding_rows(100).unwrap_err().to_string();
    assert!(
        error.starts_with("the tokenizer has ") && error.ends_with("tokens, but the model's embedding has 100 rows")
    );
    assert!(conversation.tokenizer().check_embedding_rows(4096).is_ok());
}
