//! Sends changes of runs and logs to open pages. One task per watched run or log looks for changes once per second, renders
//! them once, and shares the result with all pages. Without an open page the task ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::watch;

use super::{blocking, fragments};
use ablate_engine::follow::RunFollower;
use ablate_engine::{RunPhase, history};
use ablate_store::Store;

/// How often a watched run is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// After this time without a change, a line without content shows that the connection is open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a page can watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Run(String),
    Log { run: String, instance: String },
}

/// The parts of a page that change, each with the number of its last change.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    version: u64,
    /// Name of the part, and its HTML as a JSON string.
    parts: BTreeMap<&'static str, (u64, Arc<str>)>,
    /// Nothing will change any more.
    ended: bool,
}

impl Snapshot {
    /// Replaces the parts that differ. Whether any does.
    fn replace(&mut self, parts: Vec<(&'static str, String)>, ended: bool) -> bool {
        let next = self.version + 1;
        let mut changed = self.ended != ended || self.version == 0;
        for (name, html) in parts {
            let text: Arc<str> = serde_json::Value::from(html).to_string().into();
            if self.parts.get(name).is_none_or(|(_, old)| *old != text) {
                self.parts.insert(name, (next, text));
                changed = true;
            }
        }
        self.ended = ended;
        if changed {
            self.version = next;
        }
        changed
    }

    /// The event with the parts that changed since a version.
    fn event(&self, since: u64) -> Bytes {
        let parts = self.parts.iter().filter(|(_, (version, _))| *version > since);
        let parts: Vec<String> = parts.map(|(name, (_, html))| format!("\"{name}\":{html}")).collect();
        let end = if self.ended { "event: end\ndata: {}\n\n" } else { "" };
        Bytes::from(format!("data: {{{}}}\n\n{end}", parts.join(",")))
    }
}

/// The tasks that watch.
pub(super) struct Live {
    store: Arc<Store>,
    watched: Arc<Mutex<HashMap<Topic, watch::Sender<Snapshot>>>>,
}

impl Live {
    pub(super) fn new(store: Arc<Store>) -> Live {
        Live { store, watched: Arc::default() }
    }

    /// A response that goes on until the page is closed or the run ends: server-sent events.
    pub(super) fn response(&self, topic: Topic) -> Response {
        let receiver = self.subscribe(topic);
        let events = stream::unfold(Some((receiver, 0)), |state| async {
            let (mut receiver, seen) = state?;
            loop {
                let snapshot = receiver.borrow_and_update().clone();
                if snapshot.version > seen {
                    let event = snapshot.event(seen);
                    let next = (!snapshot.ended).then_some((receiver, snapshot.version));
                    return Some((Ok::<_, std::convert::Infallible>(event), next));
                }
                match tokio::time::timeout(KEEP_ALIVE, receiver.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return None,
                    Err(_) => return Some((Ok(Bytes::from_static(b":\n\n")), Some((receiver, seen)))),
                }
            }
        });
        ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
    }

    fn subscribe(&self, topic: Topic) -> watch::Receiver<Snapshot> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(&topic) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Snapshot::default());
        watched.insert(topic.clone(), sender.clone());
        tokio::spawn(follow(self.store.clone(), self.watched.clone(), topic, sender));
        receiver
    }
}

/// Watches until the topic has ended or has no subscriber.
async fn follow(
    store: Arc<Store>,
    watched: Arc<Mutex<HashMap<Topic, watch::Sender<Snapshot>>>>,
    topic: Topic,
    sender: watch::Sender<Snapshot>,
) {
    let mut watcher = Watcher::new(topic.clone());
    loop {
        let looked_at = store.clone();
        let (back, found) = blocking(move || {
            let found = watcher.look(&looked_at);
            (watcher, found)
        })
        .await;
        watcher = back;
        let ended = match found {
            Ok(Some((parts, ended))) => {
                sender.send_if_modified(|snapshot| snapshot.replace(parts, ended));
                ended
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!("a page cannot be updated: {error:#}");
                true
            }
        };
        {
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            if ended || sender.receiver_count() == 0 {
                watched.remove(&topic);
                return;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Parts of a page as HTML, and whether they are final.
type Look = (Vec<(&'static str, String)>, bool);

/// Looks for changes of a topic.
struct Watcher {
    topic: Topic,
    /// The followed run; `None` before the first look.
    run: Option<RunFollower>,
    /// Sizes and times of the shown logs at the last look.
    logs: Vec<Option<(u64, Option<SystemTime>)>>,
}

impl Watcher {
    fn new(topic: Topic) -> Watcher {
        Watcher { topic, run: None, logs: Vec::new() }
    }

    /// What changed since the last look; `None` if nothing has.
    fn look(&mut self, store: &Store) -> Result<Option<Look>> {
        let run = match &self.topic {
            Topic::Run(run) | Topic::Log { run, .. } => run.clone(),
        };
        let (follower, changed) = match &mut self.run {
            Some(follower) => {
                let changed = follower.update(store)?;
                (&*follower, changed)
            }
            none => (&*none.insert(RunFollower::open(store, &run)?), true),
        };
        let status = follower.status();
        let ended = status.state != RunPhase::Running;
        let shown: Vec<String> = match &self.topic {
            Topic::Run(_) => fragments::shown_logs(&status),
            Topic::Log { instance, .. } => vec![instance.clone()],
        };
        let stamp = |instance: &String| {
            let metadata = std::fs::metadata(history::log(store, &run, instance)).ok()?;
            Some((metadata.len(), metadata.modified().ok()))
        };
        let logs = shown.iter().map(stamp).collect();
        let logs_changed = std::mem::replace(&mut self.logs, logs) != self.logs || changed;
        if !changed && !logs_changed {
            return Ok(None);
        }
        let mut parts = Vec::new();
        match &self.topic {
            Topic::Run(_) => {
                if changed {
                    parts.push(("state", fragments::state(follower, &status)));
                    parts.push(("news", fragments::news(&status)));
                    parts.push(("curves", fragments::curves(follower)));
                }
                parts.push(("logs", fragments::logs(store, &run, &shown)));
            }
            Topic::Log { instance, .. } => parts.push(("log", fragments::log(store, &run, instance))),
        }
        Ok(Some((parts, ended)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_parts_are_sent() {
        let mut snapshot = Snapshot::default();
        assert!(snapshot.replace(vec![("logs", "a\n\"b\"".into()), ("state", "1".into())], false));
        assert_eq!(snapshot.event(0), "data: {\"logs\":\"a\\n\\\"b\\\"\",\"state\":\"1\"}\n\n");
        let seen = snapshot.version;
        assert!(!snapshot.replace(vec![("logs", "a\n\"b\"".into())], false));
        assert!(snapshot.replace(vec![("state", "2".into())], true));
        assert_eq!(snapshot.event(seen), "data: {\"state\":\"2\"}\n\nevent: end\ndata: {}\n\n");
    }
}
