//! The tables of an experiment file as structs. serde reads them, and the JSON Schema for editors is generated from
//! them: their doc comments are the descriptions in the schema.
//!
//! Fields of type [`IgnoredAny`] and [`Value`] only check the shape. Their values are read from the spanned tree,
//! because messages about them need their places in the file.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Number, Value};

use super::report_spec::Metric;
use super::settings::Settings;

/// The whole file.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the tables are read from the spanned tree")]
pub(crate) struct ExperimentTable {
    /// The name of the experiment. Default: the file's name without its extension.
    pub(crate) name: Option<String>,
    /// One line that describes the experiment; shown in reports.
    pub(crate) about: Option<String>,
    /// A file that this one extends, or a list of files.
    #[schemars(with = "Option<OneOrMany>")]
    extends: Option<IgnoredAny>,
    /// Variables that strings use as `${name}`.
    #[schemars(with = "Option<BTreeMap<String, Value>>")]
    vars: Option<IgnoredAny>,
    /// The stages by name.
    stage: Option<BTreeMap<String, Value>>,
    /// The seeds, and the stages that run once per seed.
    #[schemars(with = "Option<Seeds>")]
    seeds: Option<BTreeMap<String, Value>>,
    /// The axes by name: what varies.
    #[schemars(with = "Option<BTreeMap<String, AxisTable>>")]
    axis: Option<BTreeMap<String, Value>>,
    /// Which combinations of axis values exist.
    #[schemars(with = "Option<PointsTable>")]
    points: Option<BTreeMap<String, Value>>,
    /// The stages to run, together with the stages that they read. Default: all stages.
    targets: Option<Vec<String>>,
    /// The reports by name.
    #[schemars(with = "Option<BTreeMap<String, ReportTable>>")]
    report: Option<BTreeMap<String, Value>>,
    /// Device, parallelism and pools. They never change a result.
    #[schemars(with = "Option<Settings>")]
    settings: Option<BTreeMap<String, Value>>,
}

/// The seeds, and the stages that run once per seed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seeds {
    /// The seeds.
    pub(crate) values: Vec<u64>,
    /// Stages that run once per seed. Stages that read them run once per seed too.
    pub(crate) from: Vec<String>,
}

/// One axis. The keys that are present decide how its points are made.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some tables and values are read from the spanned tree")]
pub(crate) struct AxisTable {
    /// `stage.NAME.` and the path of a key in that stage, or a list of keys that take the same values.
    pub(crate) key: Option<OneOrMany>,
    /// One point per element: values of `key`, or shares for the keys of `simplex`.
    #[schemars(with = "Option<Vec<Value>>")]
    values: Option<Vec<IgnoredAny>>,
    /// The names of the points.
    pub(crate) labels: Option<Vec<String>>,
    /// Named sets of changes: `"stage.NAME.key"` to its new value, or `"remove"` to remove the key.
    variants: Option<BTreeMap<String, BTreeMap<String, Value>>>,
    /// Keys whose values are shares that add up to 1.
    pub(crate) simplex: Option<Vec<String>>,
    /// The points of `simplex` are all shares that are multiples of this step.
    pub(crate) step: Option<f64>,
    /// Distributions that keys are sampled from.
    pub(crate) random: Option<Vec<Distribution>>,
    /// The number of random points.
    pub(crate) points: Option<usize>,
    /// The seed of the random points.
    pub(crate) seed: Option<u64>,
    /// A table of a stage. Points: all entries, then all entries except one, for each entry.
    leave_one_out: Option<String>,
    /// A table of a stage. Points: no entry, then each entry alone.
    add_one: Option<String>,
    /// The entries that are left out or added. Default: all entries of the table.
    pub(crate) of: Option<Vec<String>>,
    /// A table of a stage of which each point keeps some entries.
    subsets: Option<String>,
    /// The name of each point of `subsets` and the entries that it keeps.
    sets: Option<BTreeMap<String, Vec<String>>>,
}

/// A string, or a list of strings.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The distribution that one key is sampled from, or several keys together.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Distribution {
    /// The key that is sampled.
    pub(crate) key: Option<String>,
    /// Keys that are sampled together.
    pub(crate) keys: Option<Vec<String>>,
    /// Bounds, the lower one first. If both are whole numbers, so are the values, and both bounds are included.
    pub(crate) uniform: Option<[Number; 2]>,
    /// Bounds above 0; the logarithm is uniform.
    pub(crate) log_uniform: Option<[f64; 2]>,
    /// A list of values of equal probability.
    #[schemars(with = "Option<Vec<Value>>")]
    pub(crate) choice: Option<Vec<IgnoredAny>>,
    /// Shares of `keys` that add up to 1, uniform over the simplex: a Dirichlet distribution with all parameters 1.
    #[serde(default)]
    pub(crate) dirichlet: bool,
}

/// Which combinations of axis values exist.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "conditions are read from the spanned tree")]
pub(crate) struct PointsTable {
    /// Groups of axes that are zipped: their first values go together, then their second values, and so on.
    #[serde(default)]
    pub(crate) zip: Vec<Vec<String>>,
    /// Points that are excluded: `axis=value,other=value`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    exclude: Vec<Value>,
}

/// One table of results.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportTable {
    /// The title of the table. Default: its name.
    pub(crate) title: Option<String>,
    /// The stage whose scores are shown. It may be omitted when only one stage gives scores.
    pub(crate) stage: Option<String>,
    /// Axes whose values make the rows, or one selector per row. Default: all axes that are not columns.
    pub(crate) rows: Option<Vec<String>>,
    /// Axes whose values make the columns, or one selector per column.
    #[serde(default)]
    pub(crate) columns: Vec<String>,
    /// Selector of the row that the other rows are compared with.
    pub(crate) baseline: Option<String>,
    /// The number that is averaged in a cell.
    #[serde(default)]
    pub(crate) metric: Metric,
    /// Hypotheses to test.
    #[serde(default)]
    pub(crate) contrasts: Vec<ContrastTable>,
    /// Selectors to the labels that the table shows for them.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Published numbers to show next to the measured ones.
    pub(crate) published: Option<PublishedTable>,
    /// Selects one value of an axis by scores that the table does not show.
    pub(crate) select: Option<SelectTable>,
}

/// The difference of two means: the mean of `plus` minus the mean of `minus`.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContrastTable {
    pub(crate) name: String,
    /// Selectors of equal weight.
    pub(crate) plus: Vec<String>,
    /// Selectors of equal weight.
    pub(crate) minus: Vec<String>,
    #[serde(default)]
    pub(crate) about: String,
    /// Sums of the selectors of each side instead of their means.
    #[serde(default)]
    pub(crate) sum: bool,
    /// The smallest difference that matters, in percentage points.
    pub(crate) margin: Option<f64>,
}

/// Numbers from a publication.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishedTable {
    /// The publication.
    pub(crate) source: String,
    /// Selectors of the columns.
    pub(crate) columns: Vec<String>,
    /// Selectors of the rows, each with one number in percent per column.
    pub(crate) rows: BTreeMap<String, Vec<f64>>,
}

/// Selects one value of an axis by scores that the table does not show.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SelectTable {
    /// The axis. The table shows only the value with the best mean score.
    pub(crate) axis: String,
    /// Selector of the evaluations whose scores decide.
    pub(crate) on: String,
}
