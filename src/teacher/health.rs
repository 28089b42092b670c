//! Whether the endpoint answers: what a user sees of an outage.

use std::time::Duration;

use tokio::time::Instant;

/// An outage is reported after this time without a reply.
const REPORTED_AFTER: Duration = Duration::from_secs(2);
/// An outage is reported again after this time.
const REPORTED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The failures since the last reply.
#[derive(Debug, Default)]
pub(super) struct Health {
    outage: Option<Outage>,
    last_reply: Option<Instant>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    error: String,
    reported: Option<Instant>,
}

impl Health {
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        let since = Instant::now();
        let outage = self.outage.get_or_insert_with(|| Outage { since, error: String::new(), reported: None });
        outage.error = format!("{error:#}");
    }

    /// Whether a request was answered since then.
    pub(super) fn answered_since(&self, time: Instant) -> bool {
        self.last_reply.is_some_and(|last| last > time)
    }

    /// The endpoint answered. Returns a message if an outage that was reported is over.
    pub(super) fn answered(&mut self) -> Option<String> {
        self.last_reply = Some(Instant::now());
        let outage = self.outage.take().filter(|outage| outage.reported.is_some())?;
        Some(format!("the endpoint answers again, after {:.0} s", outage.since.elapsed().as_secs_f64()))
    }

    /// A message about an outage, when it is time for one.
    pub(super) fn report(&mut self, patience: Duration) -> Option<String> {
        let outage = self.outage.as_mut()?;
        let due = match outage.reported {
            None => outage.since + REPORTED_AFTER,
            Some(last) => last + REPORTED_AGAIN_AFTER,
        };
        let now = Instant::now();
        if now < due {
            return None;
        }
        outage.reported = Some(now);
        let lasted = outage.since.elapsed();
        let left = patience.saturating_sub(lasted).as_secs_f64();
        Some(format!(
            "no reply for {:.0} s: {}\nrequests are repeated for {left:.0} s more (`patience_seconds`)",
            lasted.as_secs_f64(),
            outage.error
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn outage_is_reported_after_a_while_and_when_it_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let patience = Duration::from_secs(600);
            let pause = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
            let mut health = Health::default();
            let start = Instant::now();
            health.failed(&anyhow!("503"));
            pause(1).await;
            // A failure that the next reply follows is not an outage.
            assert_eq!((health.report(patience), health.answered()), (None, None));
            health.failed(&anyhow!("503"));
            pause(3).await;
            health.failed(&anyhow!("502"));
            let expected = "no reply for 3 s: 502\nrequests are repeated for 597 s more (`patience_seconds`)";
            assert_eq!(health.report(patience).as_deref(), Some(expected));
            assert_eq!(health.report(patience), None);
            pause(60).await;
            assert!(health.report(patience).unwrap().starts_with("no reply for 63 s"));
            assert_eq!(health.answered().as_deref(), Some("the endpoint answers again, after 63 s"));
            assert!(health.answered_since(start) && !health.answered_since(Instant::now()));
        });
    }
}
