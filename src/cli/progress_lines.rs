//! Lines of the progress of a run about several instances.

use super::format::duration;

/// The most running instances that a heartbeat names.
const MAX_NAMED: usize = 4;

/// The stage and the name of an instance.
pub(super) type InstanceName = (String, String);

/// Renders instances by stage: `sft@mix=1`, or `eval (40 instances), sft (2 instances)`.
pub(super) fn group_by_stage(instances: &[InstanceName]) -> String {
    let mut stages: Vec<(&str, Vec<&str>)> = Vec::new();
    for (stage, name) in instances {
        match stages.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, of)) => of.push(name),
            None => stages.push((stage, vec![name])),
        }
    }
    let groups = stages.into_iter().map(|(stage, names)| match names.as_slice() {
        [one] => (*one).to_string(),
        several => format!("{stage} ({} instances)", several.len()),
    });
    groups.collect::<Vec<_>>().join(", ")
}

pub(super) fn stages(count: usize) -> String {
    format!("{count} stage{}", if count == 1 { "" } else { "s" })
}

/// A duration with one or two units: an estimate is not more exact.
pub(super) fn rough_duration(seconds: f64) -> String {
    if seconds < 60.0 { format!("{seconds:.0} s") } else { duration(seconds) }
}

/// Name, seconds since the start, and progress: done, total and unit.
pub(super) type RunningInstance<'a> = (&'a str, f64, Option<&'a (u64, u64, String)>);

/// The line that shows that a run goes on: name, seconds since the start and progress of the running instances.
pub(super) fn heartbeat(running: &[RunningInstance<'_>]) -> String {
    if running.is_empty() {
        return "      still waiting: no stage is running".to_string();
    }
    let render = |(name, seconds, progress): &RunningInstance<'_>| {
        let progress = progress.map(|(done, total, unit)| format!(", {done}/{total} {unit}")).unwrap_or_default();
        format!("{name} ({}{progress})", rough_duration(*seconds))
    };
    let mut parts: Vec<String> = running.iter().take(MAX_NAMED).map(render).collect();
    if running.len() > MAX_NAMED {
        parts.push(format!("{} more", running.len() - MAX_NAMED));
    }
    format!("      still running: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_instances_are_grouped_by_stage() {
        let names = ["sft@mix=1", "eval@mix=1,prompt=cot", "eval@mix=1,prompt=direct", "report"];
        let instances = ["sft", "eval", "eval", "report"].into_iter().zip(names);
        let instances = instances.map(|(stage, name)| (stage.to_string(), name.to_string()));
        assert_eq!(group_by_stage(&instances.collect::<Vec<_>>()), "sft@mix=1, eval (2 instances), report");
    }

    #[test]
    fn a_heartbeat_names_the_running_instances() {
        let steps = (120, 400, "steps".to_string());
        let running = [("sft@mix=both", 200.0, Some(&steps)), ("items", 31.0, None)];
        assert_eq!(heartbeat(&running), "      still running: sft@mix=both (3 min 20 s, 120/400 steps), items (31 s)");
        let many = [("a", 1.0, None); 7];
        assert_eq!(heartbeat(&many), "      still running: a (1 s), a (1 s), a (1 s), a (1 s), 3 more");
        assert_eq!(heartbeat(&[]), "      still waiting: no stage is running");
    }
}
