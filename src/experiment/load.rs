//! Loading: text in, a checked experiment and its expansion out, or every mistake at its place. Runs nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::axis::Simplex;
use super::declaration::{self, Declaration};
use super::expand::expand;
use super::instance::Expansion;
use super::label::name_problem;
use super::points::Constraints;
use super::problems::{Failure, Problems};
use super::report::{self, ReportSpec};
use super::settings::Settings;
use super::text::{apply_overrides, read_files};
use super::vars::interpolate;
use ablate_core::base::{Hash, Sources, Span};
use ablate_core::stage::Registry;

/// One checked experiment file.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The key `name`, else the file's name without its ending.
    pub name: String,
    pub about: String,
    /// As given to [`Experiment::load`].
    pub path: PathBuf,
    /// The texts that the origins of instances point into.
    pub sources: Sources,
    /// The files that the experiment was read from, with the hashes of what they said.
    pub texts: Vec<(PathBuf, Hash)>,
    /// Axes with the labels of their points, both in the order in which they were written; the last is `seed`, if
    /// there are seeds. Lists that fan out belong to their stage and are not among them.
    pub axes: Vec<(String, Vec<String>)>,
    /// The axes that share a whole among several keys.
    pub simplexes: BTreeMap<String, Simplex>,
    /// In the order in which they were written.
    pub reports: Vec<ReportSpec>,
    pub settings: Settings,
}

impl Experiment {
    /// What is wrong with a name of an experiment; `None` when nothing is.
    pub fn name_problem(name: &str) -> Option<String> {
        name_problem(name)
    }

    /// Reads the file at `path` and all it extends, lays `overrides` (`stage.dpo.beta=0.2`) on top, and expands it.
    /// Never panics, whatever the bytes; an error has everything that is wrong.
    pub fn load(
        path: &Path,
        overrides: &[String],
        registry: &Registry,
    ) -> Result<(Experiment, Expansion), Box<Failure>> {
        let mut sources = Sources::default();
        let mut problems = Problems::default();
        let mut texts = Vec::new();
        let Some((source, mut tree)) = read_files(path, &mut texts, &mut sources, &mut problems) else {
            return Err(Box::new(problems.into_failure(sources)));
        };
        apply_overrides(&mut tree, overrides, &mut sources, &mut problems);
        interpolate(&mut tree, &mut problems);
        let root = Span { source, range: 0..0 };
        let declaration = declaration::read(&tree, &root, registry, &mut problems);
        let folder = path.parent().unwrap_or(Path::new(""));
        let constraints = Constraints::read(&tree, &declaration, &mut problems);
        let expansion = expand(&declaration, &constraints, folder, &mut problems);
        let reports = declaration.reports.iter();
        let reports: Vec<ReportSpec> = reports
            .filter_map(|(name, entry)| report::read(name, entry, &declaration, &expansion, &mut problems))
            .collect();
        if !problems.is_empty() {
            return Err(Box::new(problems.into_failure(sources)));
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let experiment = Experiment {
            name: declaration.name.clone().or(stem).unwrap_or_else(|| "experiment".to_string()),
            about: declaration.about.clone().unwrap_or_default(),
            path: path.to_path_buf(),
            axes: axes(&declaration),
            simplexes: declaration
                .axes
                .iter()
                .filter_map(|axis| Some((axis.name.to_string(), axis.simplex.clone()?)))
                .collect(),
            reports,
            settings: declaration.settings,
            sources,
            texts,
        };
        Ok((experiment, expansion))
    }
}

fn axes(declaration: &Declaration<'_>) -> Vec<(String, Vec<String>)> {
    let labels = |axis: &super::axis::Axis| axis.points.iter().map(|point| point.label.to_string()).collect();
    let mut axes: Vec<(String, Vec<String>)> =
        declaration.axes.iter().map(|axis| (axis.name.to_string(), labels(axis))).collect();
    if !declaration.seeds.from.is_empty() {
        axes.push(("seed".to_string(), declaration.seeds.values.iter().map(u64::to_string).collect()));
    }
    axes
}
