//! What most commands begin with: the experiment, the store, the plan.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::args::{ExperimentArgs, Global};
use crate::stages::KINDS;
use ablate_core::base::Hash;
use ablate_engine::{self, Plan, PlanOptions, Selection};
use ablate_experiment::compiled::{self, CompiledExperiment};
use ablate_experiment::{Expansion, Experiment, InstanceId};
use ablate_store::{ExperimentId, Store};

/// An experiment with its expansion and the store to hold it against.
pub(super) struct Session {
    pub(super) experiment: Experiment,
    /// What the store knows it by.
    pub(super) id: ExperimentId,
    pub(super) expansion: Expansion,
    pub(super) store: Store,
    /// Name of the derived data in which runs leave what they found.
    pub(super) noop_cache: String,
    /// Whether the experiment has reports: they are not here where only instances were needed.
    pub(super) has_reports: bool,
}

/// How much of an experiment a command needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The places of its values, its axes and its reports too.
    All,
    /// Its instances.
    Instances,
}

/// Loads and checks an experiment.
pub(super) fn load(arguments: &ExperimentArgs) -> Result<(Experiment, Expansion)> {
    Experiment::load(&arguments.file, &arguments.overrides, KINDS).map_err(|failure| (*failure).into())
}

impl Session {
    /// For commands that only look: a store that was named and is not there is a mistake, and is not made.
    pub(super) fn read(global: &Global, arguments: &ExperimentArgs, need: Need) -> Result<Session> {
        if let Some(store) = &global.store
            && !store.exists()
        {
            // What is wrong with the experiment comes first.
            load(arguments)?;
            bail!("there is no store at `{}`: `ablate run` with the same `--store` makes one", store.display());
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
            && let Some(lean) = compiled::read(bytes, KINDS, &|path| store.hash_external_bytes(path).ok()?)
        {
            let CompiledExperiment { mut experiment, expansion, has_reports } = lean;
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

    /// The plan as things stand.
    pub(super) fn plan(&self) -> Result<Plan> {
        let noop_cache = Some(self.noop_cache.clone());
        let options = PlanOptions { experiment: self.id.clone(), noop_cache, ..PlanOptions::default() };
        let plan = ablate_engine::plan(&self.expansion, &self.store, &options)?;
        self.store.save_memo();
        Ok(plan)
    }

    /// The instances that the selection chooses; all when it names none.
    pub(super) fn chosen(&self, selection: &Selection) -> Result<BTreeSet<InstanceId>> {
        selection.resolve(&self.expansion)
    }

    /// The instances that the targets name, with what they need; all when there is no target.
    pub(super) fn selected(&self, targets: &[String]) -> Result<Vec<InstanceId>> {
        let selection = Selection { until: targets.to_vec(), ..Selection::default() };
        Ok(self.chosen(&selection)?.into_iter().collect())
    }

    /// The instances that one name stands for.
    pub(super) fn named(&self, name: &str) -> Result<Vec<InstanceId>> {
        Ok(ablate_engine::select::matching(&self.expansion, &[name.to_string()])?.into_iter().collect())
    }

    /// The one instance that a name stands for.
    pub(super) fn one(&self, name: &str) -> Result<InstanceId> {
        let ids = self.named(name)?;
        match ids.as_slice() {
            [id] => Ok(*id),
            ids => {
                let names: Vec<&str> = ids.iter().take(6).map(|id| self.expansion.get(*id).name.as_str()).collect();
                let more = if ids.len() > names.len() {
                    format!(" and {} more", ids.len() - names.len())
                } else {
                    String::new()
                };
                bail!("`{name}` stands for {} instances: name one of {}{more}", ids.len(), names.join(", "))
            }
        }
    }
}
