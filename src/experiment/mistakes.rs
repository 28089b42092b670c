//! Mistakes that a kind finds in the tables of a stage's points: each once, with the point where only some have it.

use super::declaration::StageDeclaration;
use super::fields::Section;
use super::join::{AxisId, Point};
use super::problems::Problems;
use super::tree::Table;
use ablate_core::base::Span;
use ablate_core::stage::ConfigError;

/// The mistakes of one stage.
#[derive(Default)]
pub(crate) struct Mistakes {
    /// Points that were looked at.
    points: usize,
    found: Vec<Mistake>,
}

struct Mistake {
    error: ConfigError,
    /// Where what is wrong was written.
    place: Span,
    /// Points that have it.
    count: usize,
    /// The first of them, and its table.
    point: Point,
    table: Table,
}

impl Mistakes {
    /// Notes a point with its table, and what is wrong there.
    pub(crate) fn add(&mut self, point: &Point, section: &Section<'_>, errors: Vec<ConfigError>) {
        self.points += 1;
        for error in errors {
            let (_, place) = section.locate(&error.path);
            if let Some(known) = self.found.iter_mut().find(|known| known.error == error && known.place == place) {
                known.count += 1;
            } else {
                let (point, table) = (point.clone(), section.table.clone());
                self.found.push(Mistake { error, place, count: 1, point, table });
            }
        }
    }

    pub(crate) fn report(self, stage: &StageDeclaration<'_>, problems: &mut Problems) {
        let path = format!("stage.{}", stage.name);
        for Mistake { mut error, place, count, point, table } in self.found {
            let section = Section { path: &path, table: &table, header: stage.header };
            let written = Section { table: stage.table, ..section };
            // A value that an axis set stands where the axis is written.
            if count < self.points && place == written.locate(&error.path).1 {
                let others = match count {
                    1 => String::new(),
                    2 => " and 1 more point".to_string(),
                    count => format!(" and {} more points", count - 1),
                };
                error.message = format!("{} (at `{}`{others})", error.message, shown(&point));
            }
            section.report(&error, problems);
        }
    }
}

/// The point as it stands in names.
fn shown(point: &Point) -> String {
    let pairs = point.iter().map(|(axis, label)| match axis {
        AxisId::Shared(name) => format!("{name}={label}"),
        AxisId::Own { key, .. } => format!("{key}={label}"),
    });
    pairs.collect::<Vec<_>>().join(",")
}
