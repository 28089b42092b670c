//! A session: the experiment, the store and the plan that most commands need.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::args::{ExperimentArgs, Global};
use crate::stages::KINDS;
use ablate_core::base::Hash;
use ablate_engine::query::Query;
use ablate_engine::{self, Plan, PlanOptions, Selection};
use ablate_experiment::compiled::{self, CompiledExperiment};
use ablate_experiment::{Expansion, Experiment, InstanceId};
use ablate_store::{Build, ExperimentId, Store};

/// An experiment, its expansion and its store.
pub(super) struct Session {
    pub(super) experiment: Experiment,
    /// Identity of the experiment in the store.
    pub(super) id: ExperimentId,
    pub(super) expansion: Expansion,
    pub(super) store: Store,
    /// Name of the cache entry for no-op runs.
    pub(super) noop_cache: String,
    /// Whether the experiment has reports. `experiment.reports` is empty if only instances were loaded.
    pub(super) has_reports: bool,
}

/// The parts of an experiment that a command needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Everything: source locations, axes and reports too.
    All,
    /// Only the instances.
    Instances,
}

/// Loads and checks an experiment.
pub(super) fn load(arguments: &ExperimentArgs) -> Result<(Experiment, Expansion)> {
    Experiment::load(&arguments.file, &arguments.overrides, KINDS).map_err(|failure| (*failure).into())
}

impl Session {
    /// Opens a session for commands that only read. A store that was named with `--store` must exist.
    pub(super) fn read(global: &Global, arguments: &ExperimentArgs, need: Need) -> Result<Session> {
        if let Some(store) = &global.store
            && !store.exists()
        {
            // Errors of the experiment are reported first.
            load(arguments)?;
            bail!("there is no store at `{}`: `ablate run` with the same `--store` creates one", store.display());
        }
        Session::open(global, arguments, need)
    }

    pub(super) fn open(global: &Global, arguments: &ExperimentArgs, need: Need) -> Result<Session> {
        let key = compiled::key(&arguments.file, &arguments.overrides);
        let (plan, noop_cache) = (format!("{key}.plan"), format!("{key}.noop"));
        if need == Need::Instances
            && global.store().exists()
            && let Ok(store) = Store::open(global.store())
            && let Some(bytes) = store.read_cached(&plan)
            && let Some(compiled) = compiled::read(bytes, KINDS, &|path| store.hash_external_bytes(path).ok()?)
        {
            let CompiledExperiment { mut experiment, expansion, has_reports } = compiled;
            experiment.path.clone_from(&arguments.file);
            let id = store.experiment_id(&experiment.name, &arguments.file);
            return Ok(Session { experiment, id, expansion, store, noop_cache, has_reports });
        }
        let (experiment, mut expansion) = load(arguments)?;
        let store = Store::open(global.store())?;
        if let Some(bytes) = compiled::compile(&experiment, &expansion, KINDS) {
            expansion.hash = Some(Hash::of_bytes(&bytes));
            store.write_cached(&plan, &bytes);
        }
        let has_reports = !experiment.reports.is_empty();
        let id = store.experiment_id(&experiment.name, &arguments.file);
        Ok(Session { experiment, id, expansion, store, noop_cache, has_reports })
    }

    /// The current plan.
    pub(super) fn plan(&self) -> Result<Plan> {
        self.plan_forcing(&[])
    }

    /// The plan in which these stages or instances run although they are fresh.
    pub(super) fn plan_forcing(&self, force: &[String]) -> Result<Plan> {
        let noop_cache = Some(self.noop_cache.clone());
        let force = ablate_engine::select::matching(&self.expansion, force)?;
        let options = PlanOptions { experiment: self.id.clone(), force, noop_cache, ..PlanOptions::default() };
        let plan = ablate_engine::plan(&self.expansion, &self.store, &options)?;
        self.store.save_memo();
        Ok(plan)
    }

    pub(super) fn query<'a>(&'a self, plan: &'a Plan) -> Query<'a> {
        Query { experiment: &self.id, expansion: &self.expansion, store: &self.store, plan }
    }

    /// The selected instances; all if the selection is empty.
    pub(super) fn chosen(&self, selection: &Selection) -> Result<BTreeSet<InstanceId>> {
        selection.resolve(&self.expansion)
    }

    /// The instances that the targets name, with everything they need; all without targets.
    pub(super) fn selected(&self, targets: &[String]) -> Result<Vec<InstanceId>> {
        let selection = Selection { until: targets.to_vec(), ..Selection::default() };
        Ok(self.chosen(&selection)?.into_iter().collect())
    }

    /// The instances that a name matches.
    pub(super) fn named(&self, name: &str) -> Result<Vec<InstanceId>> {
        Ok(ablate_engine::select::matching(&self.expansion, &[name.to_string()])?.into_iter().collect())
    }

    /// The single instance that a name matches.
    pub(super) fn one(&self, name: &str) -> Result<InstanceId> {
        let ids = self.named(name)?;
        if let [id] = ids.as_slice() {
            return Ok(*id);
        }
        let names: Vec<&str> = ids.iter().take(6).map(|id| self.expansion.get(*id).name.as_str()).collect();
        let rest = ids.len() - names.len();
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        bail!("`{name}` matches {} instances: use one of {}{more}", ids.len(), names.join(", "))
    }
}

/// The build of this program.
pub(super) fn build(store: &Store) -> Build {
    let executable = std::env::current_exe().ok().and_then(|path| store.hash_external(&path, &|_| ()).ok().flatten());
    Build {
        version: env!("CARGO_PKG_VERSION").to_string(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        features: ablate_nn::device::features().iter().map(ToString::to_string).collect(),
        commit: option_env!("ABLATE_COMMIT").map(str::to_string),
        executable: executable.map(|hash| hash.short()).unwrap_or_default(),
    }
}

/// Opens the store. Fails if it does not exist, because a misspelt path must not look like an empty store.
pub(super) fn open_existing_store(global: &Global) -> Result<Store> {
    let path = global.store();
    if !path.exists() {
        bail!("there is no store at `{}`", path.display());
    }
    Store::open(path)
}
