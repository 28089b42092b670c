//! Loads an experiment file: parses, checks and expands it, or reports all of its errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::axis::Simplex;
use super::constraints::Constraints;
use super::declaration::{self, Declaration};
use super::diagnostics::{Diagnostics, LoadError};
use super::expand::expand;
use super::extends::read_files;
use super::instance::Expansion;
use super::label::name_error;
use super::overrides::apply_overrides;
use super::report;
use super::report_spec::ReportSpec;
use super::settings::Settings;
use super::vars::interpolate;
use ablate_core::base::{Hash, Sources, Span};
use ablate_core::stage::Registry;

/// One checked experiment file.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The key `name`. Default: the file's name without its extension.
    pub name: String,
    pub about: String,
    /// The path that was given to [`Experiment::load`].
    pub path: PathBuf,
    /// The texts that the spans of instances point into.
    pub sources: Sources,
    /// The files that the experiment was read from, with the hashes of their contents.
    pub texts: Vec<(PathBuf, Hash)>,
    /// Axes with the labels of their points, in the order of the file. If there are seeds, the last axis is `seed`.
    /// Lists that fan out are not included.
    pub axes: Vec<(String, Vec<String>)>,
    /// The axes with `simplex`.
    pub simplexes: BTreeMap<String, Simplex>,
    /// In the order of the file.
    pub reports: Vec<ReportSpec>,
    pub settings: Settings,
}

impl Experiment {
    /// The error in a name of an experiment; `None` if it is valid.
    pub fn name_error(name: &str) -> Option<String> {
        name_error(name)
    }

    /// Reads the file at `path` and the files that it extends, applies `overrides` (`stage.dpo.beta=0.2`), and expands
    /// the result. Any bytes are allowed: errors are collected, and it never panics.
    pub fn load(
        path: &Path,
        overrides: &[String],
        registry: &Registry,
    ) -> Result<(Experiment, Expansion), Box<LoadError>> {
        let mut sources = Sources::default();
        let mut diagnostics = Diagnostics::default();
        let mut texts = Vec::new();
        let Some((source, mut tree)) = read_files(path, &mut texts, &mut sources, &mut diagnostics) else {
            return Err(Box::new(diagnostics.into_error(sources)));
        };
        apply_overrides(&mut tree, overrides, &mut sources, &mut diagnostics);
        let templates = interpolate(&mut tree, &mut diagnostics);
        let root = Span { source, range: 0..0 };
        let declaration = declaration::read(&tree, templates, &root, registry, &mut diagnostics);
        let folder = path.parent().unwrap_or(Path::new(""));
        let constraints = Constraints::read(&tree, &declaration, &mut diagnostics);
        let expansion = expand(&declaration, &constraints, folder, &mut diagnostics);
        let reports = declaration.reports.iter();
        let reports: Vec<ReportSpec> = reports
            .filter_map(|(name, entry)| report::read(name, entry, &declaration, &expansion, &mut diagnostics))
            .collect();
        if !diagnostics.is_empty() {
            return Err(Box::new(diagnostics.into_error(sources)));
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
