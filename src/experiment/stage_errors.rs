//! Collects the errors that a kind finds in a stage's table at each point, and reports each error once.

use super::declaration::StageDeclaration;
use super::diagnostics::Diagnostics;
use super::foreign_keys;
use super::join::{AxisId, Point};
use super::section::Section;
use super::spanned_toml::Table;
use ablate_core::base::Span;
use ablate_core::stage::ConfigError;

/// The errors of one stage at all of its points.
#[derive(Default)]
pub(crate) struct StageErrors {
    /// The number of points that were parsed.
    points: usize,
    errors: Vec<StageError>,
}

struct StageError {
    error: ConfigError,
    /// The place of the wrong value.
    span: Span,
    /// The number of points with this error.
    count: usize,
    /// The first of these points and its table.
    point: Point,
    table: Table,
}

impl StageErrors {
    /// Adds the errors of the table at one point.
    pub(crate) fn add(&mut self, point: &Point, section: &Section<'_>, errors: Vec<ConfigError>) {
        self.points += 1;
        for error in foreign_keys::explain(errors) {
            let (_, span) = section.locate(&error.path);
            if let Some(known) = self.errors.iter_mut().find(|known| known.error == error && known.span == span) {
                known.count += 1;
            } else {
                let (point, table) = (point.clone(), section.table.clone());
                self.errors.push(StageError { error, span, count: 1, point, table });
            }
        }
    }

    pub(crate) fn report(self, stage: &StageDeclaration<'_>, diagnostics: &mut Diagnostics) {
        let path = format!("stage.{}", stage.name);
        for StageError { mut error, span, count, point, table } in self.errors {
            let section = Section { path: &path, table: &table, header: stage.header };
            let declared = Section { table: stage.table, ..section };
            // The message names the point, unless the place of the value already shows the axis that sets it.
            if count < self.points && span == declared.locate(&error.path).1 {
                let others = match count {
                    1 => String::new(),
                    2 => " and 1 more point".to_string(),
                    count => format!(" and {} more points", count - 1),
                };
                error.message = format!("{} (at `{}`{others})", error.message, render_point(&point));
            }
            section.report(&error, diagnostics);
        }
    }
}

/// The point as instance names show it.
fn render_point(point: &Point) -> String {
    let pairs = point.iter().map(|(axis, label)| match axis {
        AxisId::Shared(name) => format!("{name}={label}"),
        AxisId::FanOut { key, .. } => format!("{key}={label}"),
    });
    pairs.collect::<Vec<_>>().join(",")
}
