//! The resources of a run: jobs, threads, devices.

use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::value_parsers::{at_least_one, gpu};
use ablate_core::stage::Pool;
use ablate_engine::RunOptions;
use ablate_engine::cluster::Cluster;
use ablate_experiment::{Configuration, ExecutorName, Expansion, Settings};
use ablate_nn::device::{Device, DeviceChoice, listed};

/// Where stages run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ExecutorChoice {
    /// Processes of this machine.
    Local,
    /// Jobs of a Slurm cluster.
    Slurm,
}

#[derive(Debug, Args)]
pub(super) struct ResourceArgs {
    /// Where stages run [default: the configuration's `executor.default`, else `local`].
    #[arg(long, value_enum, value_name = "EXECUTOR")]
    executor: Option<ExecutorChoice>,
    /// Number of stages that run at the same time [default: the number of cores].
    #[arg(short, long, value_name = "N", value_parser = at_least_one)]
    jobs: Option<usize>,
    /// Threads per stage [default: the cores, shared by the running stages]. Does not change results.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// `auto` (all GPUs, or the CPU if there are none), `cpu`, or `cuda:0,cuda:1` [default: the experiment's
    /// setting].
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// GPUs, by number or UUID, for the stages of the pool `gpu`. Each stage gets one.
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = gpu)]
    gpus: Vec<String>,
}

impl ResourceArgs {
    /// Adds the resources of these arguments, or else of the experiment's settings, to the options of a run.
    pub(super) fn apply(
        &self,
        expansion: &Expansion,
        settings: &Settings,
        configuration: &Configuration,
        options: RunOptions,
    ) -> Result<RunOptions> {
        let cluster = self.cluster(configuration)?;
        let (device, gpus) = if cluster.is_some() {
            // The driver's own stages run on the CPU.
            ("cpu".to_string(), Vec::new())
        } else {
            let models = expansion.instances.iter().any(|instance| instance.pool == Pool::Model);
            self.devices(models, settings)?
        };
        let cores = available_parallelism().map_or(1, usize::from);
        let slots = settings.jobs.or(settings.pools.get("cpu").copied());
        Ok(RunOptions {
            jobs: self.jobs.or(slots).unwrap_or(cores),
            threads: self.threads,
            teachers: settings.pools.get("teacher").copied().unwrap_or(4),
            pools: settings.pools.clone(),
            gpus,
            device,
            cluster,
            ..options
        })
    }

    /// The cluster, if stages are its jobs.
    pub(super) fn cluster(&self, configuration: &Configuration) -> Result<Option<Arc<Cluster>>> {
        let is_slurm = match self.executor {
            Some(choice) => choice == ExecutorChoice::Slurm,
            None => configuration.executor.default == ExecutorName::Slurm,
        };
        if !is_slurm {
            return Ok(None);
        }
        let given = [
            ("--device", self.device.is_some()),
            ("--gpus", !self.gpus.is_empty()),
            ("--threads", self.threads.is_some()),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
            bail!(
                "`{option}` is for stages of this machine, and the executor is slurm\nhelp: `gpu` and `cpus` in `limits` or in \
                 `[executor.slurm]` are what a job gets (docs/cluster.md)"
            );
        }
        Ok(Some(Arc::new(Cluster::slurm(&configuration.executor.slurm)?)))
    }

    /// The devices of model stages, and the GPUs that only programs get. If models run on GPUs, programs get the same
    /// ones. Without models the driver is not queried.
    fn devices(&self, models: bool, settings: &Settings) -> Result<(String, Vec<String>)> {
        let requested = self.device.as_deref().unwrap_or(&settings.device);
        let max_gpus = settings.pools.get("gpu").copied();
        let gpus = &self.gpus;
        if let Some(id) = gpus.iter().enumerate().find_map(|(at, id)| gpus[..at].contains(id).then_some(id)) {
            bail!("`--gpus` names `{id}` twice");
        }
        let mut devices =
            if models || requested != "auto" { DeviceChoice::devices(requested)? } else { vec![Device::Cpu] };
        if devices[0] == Device::Cpu {
            let first = || (0..max_gpus.unwrap_or(0)).map(|number| number.to_string()).collect();
            let programs = if gpus.is_empty() { first() } else { gpus.clone() };
            return Ok((listed(&devices), programs));
        }
        if requested != "auto" {
            if !gpus.is_empty() {
                bail!("`--gpus` and device `{requested}` both select GPUs: use only one of them");
            }
        } else if !gpus.is_empty() {
            let named: Vec<String> = gpus.iter().map(|id| format!("cuda:{id}")).collect();
            devices = DeviceChoice::devices(&named.join(",")).context("`--gpus`: models need GPU numbers")?;
        } else if let Some(max_gpus) = max_gpus {
            devices.truncate(max_gpus);
        }
        devices.iter().try_for_each(|device| device.check())?;
        Ok((listed(&devices), Vec::new()))
    }
}
