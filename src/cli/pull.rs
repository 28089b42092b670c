//! `pull`: brings the results that a remote has for an experiment into the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde_json::json;

use super::args::Global;
use super::format::{counted, human_bytes};
use super::remote::{SharedRemote, TransferArgs, required_address, with_progress};
use super::session::{Need, Session};
use super::shell::Shell;
use super::{INTERRUPTED, OUTPUT_FAILED, SUCCESS, print_error, signals};
use ablate_core::base::Hash;
use ablate_engine::{PlanState, SharedPlan, fetch_shared, find_shared};
use ablate_experiment::InstanceId;
use ablate_remote::{Remote, is_stopped};

/// What a pull brought into the store.
#[derive(Default)]
pub(super) struct Pulled {
    /// Fingerprints of the results.
    pub(super) fetched: BTreeSet<Hash>,
    bytes: u64,
    /// Instances whose results were fetched.
    instances: usize,
    /// Instances whose results were found and could not be fetched, with the reasons.
    failed: Vec<(InstanceId, anyhow::Error)>,
    missing: Vec<InstanceId>,
    unknown: Vec<InstanceId>,
    pub(super) warnings: Vec<String>,
}

pub(super) fn pull(shell: Shell, global: &Global, arguments: &TransferArgs) -> Result<u8> {
    let address = required_address(arguments.remote.as_deref(), &global.configuration()?)?;
    let session = Session::open(global, &arguments.experiment, Need::Instances)?;
    let selected: BTreeSet<InstanceId> = session.selected(&arguments.targets.targets)?.into_iter().collect();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    signals::call_on_end(move || flag.store(true, Ordering::SeqCst))?;
    let remote = Arc::new(Remote::open(&address, false, stop.clone())?);
    let shared = SharedRemote::start(shell, remote, session.store.root(), stop)?;
    let fresh = session.plan()?.counts(&selected).0;
    let pulled = match pull_results(shell, &session, &selected, &BTreeSet::new(), &shared) {
        Err(error) if is_stopped(&error) => {
            shell.status(&format!("{error:#}"));
            return Ok(INTERRUPTED);
        }
        pulled => pulled?,
    };
    for warning in &pulled.warnings {
        shell.warning(warning);
    }
    let name = |id: &InstanceId| session.expansion.get(*id).name.as_str();
    let code = if pulled.failed.is_empty() { SUCCESS } else { OUTPUT_FAILED };
    if shell.json {
        let names = |ids: &[InstanceId]| ids.iter().map(name).collect::<Vec<_>>();
        let failed =
            pulled.failed.iter().map(|(id, error)| json!({ "instance": name(id), "why": format!("{error:#}") }));
        shell.json(&json!({
            "remote": address.to_string(),
            "fetched": pulled.instances, "bytes": pulled.bytes, "fresh_before": fresh,
            "missing": names(&pulled.missing), "unknown": names(&pulled.unknown),
            "failed": failed.collect::<Vec<_>>(),
        }))?;
        return Ok(code);
    }
    for (id, error) in &pulled.failed {
        print_error(
            shell,
            &anyhow::anyhow!("{error:#}").context(format!("the result of `{}` was not fetched", name(id))),
        );
    }
    let results = counted(pulled.instances as u64, "result", "results");
    let mut text = format!("{address}: fetched {results}, {}; {fresh} fresh before\n", human_bytes(pulled.bytes));
    let lost =
        [(&pulled.missing, "not there"), (&pulled.unknown, "not known, because they read one that is not there")];
    for (ids, what) in lost.into_iter().filter(|(ids, _)| !ids.is_empty()) {
        let listed = if shell.verbose > 0 {
            format!(": {}", ids.iter().map(name).collect::<Vec<_>>().join(", "))
        } else {
            String::new()
        };
        text.push_str(&format!("{} {what}{listed}\n", ids.len()));
    }
    shell.result(&text);
    Ok(code)
}

/// Finds what the remote has for the selected instances that are not fresh.
pub(super) fn find(
    session: &Session,
    selected: &BTreeSet<InstanceId>,
    force: &BTreeSet<InstanceId>,
    shared: &SharedRemote,
) -> Result<SharedPlan> {
    find_shared(&session.expansion, &session.store, &session.plan()?, selected, force, shared)
}

/// Fetches what the remote has for the selected instances that are not fresh, except those in `force`.
pub(super) fn pull_results(
    shell: Shell,
    session: &Session,
    selected: &BTreeSet<InstanceId>,
    force: &BTreeSet<InstanceId>,
    shared: &SharedRemote,
) -> Result<Pulled> {
    let Session { expansion, store, id, .. } = session;
    let plan = session.plan()?;
    if selected.iter().all(|id| force.contains(id) || plan.get(*id).state == PlanState::Fresh) {
        return Ok(Pulled::default());
    }
    store.check_writable()?;
    // Excludes `gc`, which would remove objects without a record.
    let _shared = store.lock_shared()?;
    let SharedPlan { found, missing, unknown, warnings } =
        find_shared(expansion, store, &plan, selected, force, shared)?;
    let meter = shared.remote().meter();
    let before = meter.read().0;
    let fetched = with_progress(shell, meter, "fetching", || fetch_shared(id, expansion, store, &found, shared))?;
    store.save_memo();
    let instances = found.iter().filter(|(_, record)| fetched.fetched.contains(&record.fingerprint)).count();
    Ok(Pulled {
        fetched: fetched.fetched,
        bytes: meter.read().0 - before,
        instances,
        failed: fetched.failed,
        missing,
        unknown,
        warnings,
    })
}

impl Pulled {
    /// The failures as warnings of a run, which runs these stages instead.
    pub(super) fn failure_warnings(&self, session: &Session) -> Vec<String> {
        let failed = self.failed.iter().map(|(id, error)| {
            format!("the shared result of `{}` is not used: {error:#}", session.expansion.get(*id).name)
        });
        failed.collect()
    }
}
