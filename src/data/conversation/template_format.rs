//! What a chat template expects and writes, found by probing it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::hub_files;
use super::template::{ChatTemplate, Format, Message, PROBE, Role};
use super::thinking::ThinkingBlock;

/// A placeholder for a thought when a template is probed.
const THOUGHT_PROBE: &str = "\u{F0003}";

/// The content formats and thinking blocks of a template, found by probing.
pub(super) struct TemplateFormat {
    pub(super) template: ChatTemplate,
    pub(super) user: Format,
    pub(super) assistant: Format,
    pub(super) block: Option<ThinkingBlock>,
    pub(super) gap: String,
}

impl TemplateFormat {
    pub(super) fn probe(
        file: &hub_files::Template,
        named: BTreeMap<String, String>,
        images: bool,
    ) -> Result<TemplateFormat> {
        let template = ChatTemplate::new(&file.text, &file.origin, named)?;
        let preferred = if images { Format::Parts } else { Format::Text };
        let user = template.format_of(preferred, |format| vec![Message::new(Role::User, PROBE, format)], true)?;
        let answered = |format| vec![Message::new(Role::User, "a", user), Message::new(Role::Assistant, PROBE, format)];
        let assistant = template.format_of(preferred, answered, false)?;
        let (block, gap) = find_thinking_block(&template, &file.text, user, assistant)?;
        Ok(TemplateFormat { template, user, assistant, block, gap })
    }
}

/// Finds the thinking blocks of a template, and the white space that it writes between the opening of a response and a
/// given response.
///
/// # Errors
///
/// A template that ignores `add_generation_prompt`: a prompt would end before text that precedes every answer.
fn find_thinking_block(
    template: &ChatTemplate,
    source: &str,
    user: Format,
    assistant: Format,
) -> Result<(Option<ThinkingBlock>, String)> {
    let question = Message::new(Role::User, "a", user);
    let answered = |text: &str| {
        let chat = [question.clone(), Message::new(Role::Assistant, text, assistant)];
        template.render(&chat, false)
    };
    let prompt = template.render(std::slice::from_ref(&question), true)?;
    let given = answered(PROBE)?;
    let lead = given.split(PROBE).next().unwrap_or_default();
    let drops = |open: &str, close: &str| {
        let thought = answered(&format!("{open}\n{THOUGHT_PROBE}\n{close}\n\n{PROBE}"));
        thought.is_ok_and(|thought| !thought.contains(THOUGHT_PROBE) && thought.contains(PROBE))
    };
    let block = ThinkingBlock::find(&prompt, lead, source, drops);
    let opened = lead.strip_prefix(&*prompt).map(str::trim);
    if block.is_none() && opened != Some("") && template.render(&[question], false)? == prompt {
        let missing = opened.map_or_else(|| lead.to_string(), str::to_string);
        bail!(
            "the chat template of {} ignores `add_generation_prompt`: it writes {missing:?} before an answer, but a prompt \
             ends without it",
            template.origin()
        );
    }
    let gap = lead.strip_prefix(&*prompt).filter(|gap| gap.trim().is_empty()).unwrap_or_default().to_string();
    Ok((block, gap))
}
