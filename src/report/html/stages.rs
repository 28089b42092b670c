//! The details of the stages: config, inputs, costs, and the ends of logs.

use std::fmt::Write;

use super::escape::escape;
use super::tables::duration;
use crate::input::{InstanceFacts, StageDetails};

/// The id of the details of a stage, which its box in the graph links to.
pub(super) fn id(stage: usize) -> String {
    format!("stage-{stage}")
}

/// One folded block per stage, in the order of the stages of the graph.
pub(super) fn render(stages: &[StageDetails]) -> String {
    stages.iter().enumerate().map(|(number, stage)| render_stage(number, stage)).collect()
}

fn render_stage(number: usize, stage: &StageDetails) -> String {
    let mut text = format!(
        "<details id=\"{}\"><summary><b>{}</b><small>{} · {} of {} done · {}</small></summary><div class=\"stage\">",
        id(number),
        escape(&stage.stage),
        escape(&stage.kind),
        stage.done,
        stage.instances,
        duration(stage.seconds)
    );
    text.push_str(&list("Config", &stage.config));
    text.push_str(&list("Inputs", &stage.inputs));
    if stage.shown.len() < stage.instances {
        _ = write!(text, "<p class=\"sub\">The first {} of {} instances:</p>", stage.shown.len(), stage.instances);
    }
    text.extend(stage.shown.iter().map(render_instance));
    text + "</div></details>"
}

fn render_instance(instance: &InstanceFacts) -> String {
    let seconds = instance.seconds.map_or_else(|| "not run".to_string(), duration);
    let mut text = format!(
        "<section class=\"instance\"><h4><code>{}</code> <small>{seconds}</small></h4>",
        escape(&instance.instance)
    );
    text.push_str(&list("", &instance.config));
    text.push_str(&list("Results", &instance.summary));
    if let Some(log) = &instance.log {
        _ = write!(text, "<h5>Log</h5><pre tabindex=\"0\">{}</pre>", escape(log));
    }
    text + "</section>"
}

/// Keys with their values. Empty without any.
fn list(title: &str, pairs: &[(String, String)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let title = if title.is_empty() { String::new() } else { format!("<h5>{title}</h5>") };
    let pairs = pairs.iter().map(|(key, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(key), escape(value)));
    format!("{title}<dl>{}</dl>", pairs.collect::<String>())
}
