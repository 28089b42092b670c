//! The parts of a page that change during a run, as HTML.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use ablate_core::base::escape::clean_log;
use ablate_engine::follow::RunFollower;
use ablate_engine::history::{RunningInstance, Status};
use ablate_engine::{RunPhase, history, query, waits_for_job};
use ablate_report::html::{PlotLine, duration, escape, line_plot};
use ablate_store::Store;

/// The style of what a server adds to a page.
pub(super) const STYLE: &str = "<link rel=\"stylesheet\" href=\"/live.css\">";

/// Most instances listed per state; the rest is counted.
const MAX_LISTED: usize = 50;

/// Most logs of running instances that a page of a run shows, and the lines of each.
const MAX_LOGS: usize = 4;
const LOG_LINES: usize = 12;

/// Bytes at the end of a log that are shown.
const LOG_BYTES: u64 = 64 << 10;

/// Bytes that a part of an address keeps.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A text as a part of an address.
pub(super) fn encode(text: &str) -> String {
    match text {
        // Browsers would read them as folders.
        "." => "%2E".to_string(),
        ".." => "%2E%2E".to_string(),
        text => utf8_percent_encode(text, PLAIN).to_string(),
    }
}

/// The address of the log of an instance in a run.
pub(super) fn log_address(run: &str, instance: &str) -> String {
    format!("/runs/{}/logs/{}", encode(run), encode(instance))
}

/// The state of a run: counts, and lists of instances with buttons.
pub(super) fn state(follower: &RunFollower, status: &Status) -> String {
    let run = &status.run.run;
    let finished: usize = status.outcomes.values().sum();
    let counts: Vec<String> = status.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let counts = if counts.is_empty() { "none has ended yet".to_string() } else { counts.join(", ") };
    let mut html = format!(
        "<p><strong>Run {} {}</strong>, {}. {finished} of {} instances have ended: {}.</p>",
        status.run.number,
        phase(status.state),
        duration(status.elapsed),
        status.run.selected,
        escape(&counts)
    );
    let is_running = status.state == RunPhase::Running;
    if is_running {
        html.push_str(&button(run, "stop", None, "Stop the run"));
    }
    list(&mut html, "Running", &status.running, |running| running_item(run, running, is_running));
    let waits = |what: &'static str| {
        move |waiting: &history::WaitingInstance| {
            format!("<b>{}</b> {what}{}", escape(&waiting.instance), escape(&waiting.why))
        }
    };
    list(&mut html, "Waiting", &status.waiting, waits(""));
    list(&mut html, "Detached", &status.detached, |waiting| {
        let what = if waits_for_job(&waiting.why) { "" } else { "waits for its endpoint: " };
        waits(what)(waiting)
    });
    if is_running {
        let pending = follower.pending();
        let item = |name: &&str| format!("<b>{}</b> {}", escape(name), button(run, "stop", Some(name), "Stop"));
        details(&mut html, "pending", "not started", &pending, item);
    }
    let item = |(name, outcome): &(String, String)| {
        let again = if is_running || ["ran", "fresh", "fetched"].contains(&outcome.as_str()) {
            String::new()
        } else {
            button(run, "retry", Some(name), "Retry")
        };
        let link =
            format!("<a href=\"{}\">log<span class=\"hidden\"> of {}</span></a>", log_address(run, name), escape(name));
        format!("<b>{}</b> {} {link} {again}", escape(name), escape(outcome))
    };
    // Problems first, then the latest.
    let mut ended: Vec<(String, String)> = follower.ended().iter().rev().cloned().collect();
    ended.sort_by_key(|(_, outcome)| ["ran", "fresh", "fetched"].contains(&outcome.as_str()));
    details(&mut html, "ended", "ended", &ended, item);
    html
}

fn phase(phase: RunPhase) -> &'static str {
    match phase {
        RunPhase::Running => "is running",
        RunPhase::Finished => "has finished",
        RunPhase::Failed => "has failed",
        RunPhase::Interrupted => "was interrupted",
        RunPhase::Detached => "waits for an endpoint or for its jobs",
        RunPhase::Killed => "was killed",
    }
}

fn running_item(run: &str, running: &RunningInstance, can_stop: bool) -> String {
    let name = escape(&running.instance);
    let mut html = format!("<b>{name}</b>, {}", duration(running.seconds));
    if let Some((done, total, unit)) = &running.progress {
        _ = write!(
            html,
            ", <progress aria-label=\"progress of {name}\" value=\"{done}\" max=\"{}\"></progress> {done}/{total} {}",
            (*total).max(1),
            escape(unit)
        );
    }
    if let Some(left) = running.left {
        _ = write!(html, ", about {} left", duration(left));
    }
    if let Some(loss) = running.loss {
        _ = write!(html, ", loss {loss:.4}");
    }
    _ = write!(
        html,
        " <a href=\"{}\">log<span class=\"hidden\"> of {name}</span></a> ",
        log_address(run, &running.instance)
    );
    if can_stop {
        html.push_str(&button(run, "stop", Some(&running.instance), "Stop"));
    }
    html
}

/// A button that asks the server for something; the page's script sends the request.
fn button(run: &str, action: &str, instance: Option<&str>, label: &str) -> String {
    let query = instance.map(|name| format!("?instance={}", encode(name))).unwrap_or_default();
    let of = instance.map(|name| format!("<span class=\"hidden\"> {}</span>", escape(name))).unwrap_or_default();
    let id = escape(&format!("{action}-{}", instance.unwrap_or_default()));
    format!(
        "<button type=\"button\" id=\"{id}\" data-post=\"/runs/{}/{action}{query}\">{label}{of}</button>",
        encode(run)
    )
}

fn list<T>(html: &mut String, title: &str, items: &[T], item: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    _ = write!(html, "<h3>{title}</h3><ul class=\"instances\">{}</ul>", list_items(items, item));
}

fn details<T>(html: &mut String, id: &str, what: &str, items: &[T], item: impl Fn(&T) -> String) {
    if !items.is_empty() {
        _ = write!(
            html,
            "<details id=\"{id}\"><summary>{} {what}</summary><ul class=\"instances\">{}</ul></details>",
            items.len(),
            list_items(items, item)
        );
    }
}

fn list_items<T>(items: &[T], item: impl Fn(&T) -> String) -> String {
    let mut html = String::new();
    for one in items.iter().take(MAX_LISTED) {
        _ = write!(html, "<li>{}</li>", item(one));
    }
    if items.len() > MAX_LISTED {
        _ = write!(html, "<li>and {} more</li>", items.len() - MAX_LISTED);
    }
    html
}

/// One sentence for screen readers. It changes only when an instance ends or the run does.
pub(super) fn news(status: &Status) -> String {
    let counts: Vec<String> = status.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    match status.state {
        RunPhase::Running if counts.is_empty() => String::new(),
        RunPhase::Running => escape(&format!("Ended so far: {}.", counts.join(", "))),
        ended => format!("The run {}. <a href=\"{}\">Show its results</a>", phase(ended), results_address(status)),
    }
}

/// The address of the results of a run that has ended: the current ones, unless it changed keys.
pub(super) fn results_address(status: &Status) -> String {
    let run = &status.run;
    if run.overrides.is_empty() && !run.experiment.file.is_empty() {
        experiment_address(&run.experiment)
    } else {
        format!("/runs/{}/report", encode(&run.run))
    }
}

pub(super) fn experiment_address(id: &ablate_store::ExperimentId) -> String {
    format!("/experiments/{}?file={}", encode(&id.name), encode(&id.file))
}

/// The training losses as a plot.
pub(super) fn curves(follower: &RunFollower) -> String {
    let line = |(name, curve): (&String, &ablate_engine::follow::LossCurve)| PlotLine {
        name: name.clone(),
        points: curve.points().to_vec(),
    };
    let lines: Vec<PlotLine> = follower.losses().iter().map(line).collect();
    line_plot("Training loss", &lines).unwrap_or_default()
}

/// The running instances whose logs the page of a run shows.
pub(super) fn shown_logs(status: &Status) -> Vec<String> {
    status.running.iter().take(MAX_LOGS).map(|running| running.instance.clone()).collect()
}

/// The last lines of some logs.
pub(super) fn logs(store: &Store, run: &str, instances: &[String]) -> String {
    let mut html = String::new();
    for instance in instances {
        let text = log_end(store, run, instance);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        if !last.is_empty() {
            let (address, name) = (log_address(run, instance), escape(instance));
            _ = write!(html, "<h3><a href=\"{address}\">Log of {name}</a></h3>{}", pre(&last, &name));
        }
    }
    html
}

/// The end of a log.
pub(super) fn log(store: &Store, run: &str, instance: &str) -> String {
    let text = log_end(store, run, instance);
    if text.is_empty() {
        return "<p class=\"sub\">The log is empty so far.</p>".to_string();
    }
    pre(&text, &escape(instance))
}

fn pre(text: &str, name: &str) -> String {
    format!("<pre class=\"log\" tabindex=\"0\" role=\"region\" aria-label=\"log of {name}\">{}</pre>", escape(text))
}

fn log_end(store: &Store, run: &str, instance: &str) -> String {
    let (text, is_whole) = query::read_log_end(&history::log(store, run, instance), LOG_BYTES).unwrap_or_default();
    let text = clean_log(&text);
    if is_whole || text.is_empty() { text.into_owned() } else { format!("(the last {} KiB)\n{text}", LOG_BYTES >> 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_part_of_an_address() {
        assert_eq!(encode("eval@a=b,c/../d \"é"), "eval%40a%3Db%2Cc%2F..%2Fd%20%22%C3%A9");
        assert_eq!([encode("."), encode("..")], ["%2E", "%2E%2E"]);
    }

    #[test]
    fn markup_in_names_and_logs_is_escaped() {
        let running = RunningInstance {
            instance: "<b>\"x".to_string(),
            seconds: 1.0,
            progress: Some((1, 0, "<i>".to_string())),
            left: None,
            loss: Some(0.5),
            requests: None,
        };
        let html = running_item("r", &running, true);
        assert!(!html.contains("<b>\"x") && !html.contains("<i>") && html.contains("max=\"1\""), "{html}");
        assert!(html.contains("data-post=\"/runs/r/stop?instance=%3Cb%3E%22x\""), "{html}");
        assert!(pre("</pre><script>", "n").contains("&lt;/pre&gt;&lt;script&gt;"));
    }
}
