//! The input of a report, as plain values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::made_by::MadeBy;
use ablate_data::records::{CreditedItem, CurveStep, Score};
use ablate_experiment::ReportSpec;

/// Everything that a report shows. An instance that has not run is listed without scores and shown as missing.
pub struct ReportInput<'a> {
    /// Name of the experiment.
    pub experiment: String,
    pub about: String,
    /// One table each.
    pub specs: Vec<ReportSpec>,
    pub evaluations: Vec<Evaluation>,
    /// The training stages of the evaluated models, each instance once.
    pub trainings: Vec<TrainingRun>,
    pub curves: Vec<Curve>,
    pub credits: Vec<CreditedInstance>,
    pub graph: Vec<GraphNode>,
    pub costs: Vec<Cost>,
    pub made_by: MadeBy,
    /// The facts of `made_by` as names and values.
    pub provenance: Vec<(String, String)>,
    /// Notes about the report as a whole.
    pub notes: Vec<String>,
    /// The axes whose values are mixes of sources.
    pub mixtures: Vec<MixtureAxis>,
    /// The details of every stage, in the order of the graph.
    pub stages: Vec<StageDetails>,
    /// Most bytes of the page that its answers and their images take. 0: the report has no answers.
    pub answer_bytes: usize,
    /// The encoded bytes (PNG or JPEG) of an image by its key in [`Score::image`].
    pub images: Images<'a>,
}

/// Finds the bytes of an image by its key.
pub type Images<'a> = Box<dyn Fn(&str) -> Option<Vec<u8>> + 'a>;

/// One instance of an evaluation stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Its name, for example `eval@model=sft,prompt=cot,seed=0`.
    pub instance: String,
    pub stage: String,
    /// Axis, fan-out key or `seed` to the label of its value.
    pub point: BTreeMap<String, String>,
    /// None if it has not run.
    pub scores: Option<ScoreSource>,
    /// The training stages of its model, oldest first, as indices into [`ReportInput::trainings`].
    pub training: Vec<usize>,
    /// The instance that the model starts from, and what it is, if it was trained elsewhere.
    pub trained_elsewhere: Option<String>,
}

/// One instance that trained a model.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingRun {
    pub instance: String,
    pub stage: String,
    /// None if it has not run.
    pub budget: Option<MeasuredBudget>,
}

/// What a training took. A number is None if the record does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MeasuredBudget {
    pub steps: Option<f64>,
    pub tokens: Option<f64>,
    pub flops: Option<f64>,
    /// Passes over the data. None for several stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Rows or pairs, each as often as it was used.
    pub examples: Option<f64>,
    /// Distinct questions. None for several stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<f64>,
}

/// Where the scores of one evaluation are.
#[derive(Clone, Debug, PartialEq)]
pub enum ScoreSource {
    Memory(Vec<Score>),
    /// A file of one [`Score`] per line that does not change. Texts are read from it again for the items that are
    /// shown.
    File(PathBuf),
}

/// The training curve of one instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    pub instance: String,
    /// Curves of one stage share a plot.
    pub stage: String,
    /// As [`Evaluation::point`].
    #[serde(skip)]
    pub point: BTreeMap<String, String>,
    pub points: Vec<CurveStep>,
    /// When the stage ran.
    #[serde(skip)]
    pub time: TimeSpan,
}

/// When a stage started, in seconds since 1970, and how long it took. Zero if the record does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TimeSpan {
    pub started: f64,
    pub seconds: f64,
}

/// Questions of one instance whose responses have token credits.
#[derive(Clone, Debug, PartialEq)]
pub struct CreditedInstance {
    pub instance: String,
    pub questions: Vec<CreditedItem>,
}

/// One instance in the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GraphNode {
    pub instance: String,
    pub stage: String,
    pub kind: String,
    pub state: NodeState,
    /// Names of the instances whose outputs it reads.
    pub reads: Vec<String>,
}

/// An axis whose values are mixes of sources.
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureAxis {
    pub axis: String,
    /// The names of the sources.
    pub parts: Vec<String>,
    /// Label of the value to the share of each source.
    pub shares: Vec<(String, Vec<f64>)>,
}

/// What the page shows of one stage. Long lists and texts end with the number of what was left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageDetails {
    pub stage: String,
    pub kind: String,
    /// Number of instances, and of those whose result is up to date.
    pub instances: usize,
    pub done: usize,
    /// The sum over the instances that are done.
    pub seconds: f64,
    /// Keys of the config that have the same value in all instances.
    pub config: Vec<(String, String)>,
    /// Key of the config to the stage, file or variable that it names.
    pub inputs: Vec<(String, String)>,
    /// The first instances.
    pub shown: Vec<InstanceFacts>,
}

/// What the page shows of one instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceFacts {
    pub instance: String,
    /// None if it has not run.
    pub seconds: Option<f64>,
    /// Keys of the config whose values differ between the instances of the stage.
    pub config: Vec<(String, String)>,
    /// Facts that the stage reported, such as tokens, requests and costs.
    pub summary: Vec<(String, String)>,
    /// The last lines of its log.
    pub log: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    Done,
    /// It has not run, or its result is out of date.
    Missing,
}

/// The cost of one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    pub instance: String,
    pub stage: String,
    pub kind: String,
    pub seconds: f64,
    pub tokens: Option<u64>,
    pub flops: Option<f64>,
    pub device: Option<String>,
    /// The run that the report is about took the result from the store.
    pub reused: bool,
}
