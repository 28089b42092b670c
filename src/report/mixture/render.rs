//! A mixture fit in words and columns, for the terminal. Computes nothing.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use super::{MixtureFit, Prediction, Term};
use crate::terminal::{clean, left, pad};

impl MixtureFit {
    /// The fit and `count` suggestions as text; `names` are the sources', in the order of the shares. Scores are in
    /// percent.
    pub fn terminal(&self, names: &[&str], count: usize) -> String {
        let name = |i: usize| names.get(i).map_or_else(|| format!("source {}", i + 1), |name| clean(name));
        let mut text = format!(
            "{} model of {} measured mixes, standard deviation {:.1} points\n",
            if self.quadratic { "quadratic" } else { "linear" },
            self.points.len(),
            100.0 * self.sigma
        );
        let left_out = &self.leave_one_out;
        _ = writeln!(
            text,
            "each mix told by the others: off by {:.1} points on average (root mean square {:.1}), R² {}\n",
            100.0 * left_out.mae,
            100.0 * left_out.rmse,
            left_out.r2.map_or("–".to_string(), |r2| format!("{r2:.2}"))
        );
        if left_out.r2.is_none_or(|r2| r2 <= 0.0) {
            text.push_str("the mean of all mixes tells as much: what follows is a guess\n\n");
        }
        let terms = self.coefficients.iter().map(|one| match one.term {
            Term::Source(i) => (name(i), one),
            Term::Blend(i, j) => (format!("{} x {}", name(i), name(j)), one),
        });
        let terms: Vec<_> = terms.collect();
        let width = terms.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
        for (name, one) in terms {
            _ = writeln!(text, "{} {:>8.1} ± {:.1}", pad(&name, width), 100.0 * one.value, 100.0 * one.error);
        }
        let names: Vec<String> = (0..self.points[0].shares.len()).map(name).collect();
        let head: Vec<String> = names.iter().map(|name| left(name, 5)).collect();
        _ = writeln!(text, "\n            {}   predicted", head.join(" "));
        line(&mut text, "best", &head, &self.best());
        for (number, one) in (1..).zip(self.suggest(count)) {
            line(&mut text, &format!("try next {number}"), &head, &one);
        }
        text
    }
}

fn line(text: &mut String, label: &str, head: &[String], one: &Prediction) {
    let share = |(name, share): (&String, &f64)| left(&format!("{:.0} %", 100.0 * share), name.width());
    let shares: Vec<String> = head.iter().zip(&one.shares).map(share).collect();
    let score = format!("{:.1} ± {:.1}", 100.0 * one.mean, 100.0 * one.error);
    _ = writeln!(text, "{} {}   {score}", pad(label, 11), shares.join(" "));
}
