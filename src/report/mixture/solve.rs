//! The normal equations of a least-squares fit: a few terms, so a Cholesky factor by hand. Knows no mixture.

/// What is added to the diagonal of the normal equations so that rounding cannot make them singular. Shares are of 1, so
/// it moves a coefficient by less than one in a million.
const RIDGE: f64 = 1e-9;

/// A pivot below this means that the rows do not determine a term.
const PIVOT: f64 = 1e-6;

/// The inverse of the normal equations' matrix, `(X'X + ridge)^-1`.
#[derive(Clone, Debug)]
pub(super) struct Inverse(Vec<Vec<f64>>);

impl Inverse {
    /// None where the rows do not determine every term.
    pub(super) fn of(rows: &[Vec<f64>]) -> Option<Inverse> {
        let size = rows.first()?.len();
        // Lower triangle of the factor L of X'X + ridge = L L'.
        let mut factor = vec![vec![0.0; size]; size];
        for i in 0..size {
            for j in 0..=i {
                let product: f64 = rows.iter().map(|row| row[i] * row[j]).sum();
                let ridge = if i == j { RIDGE } else { 0.0 };
                let rest = product + ridge - dot(&factor[i][..j], &factor[j][..j]);
                if i != j {
                    factor[i][j] = rest / factor[j][j];
                } else if rest > PIVOT {
                    factor[i][i] = rest.sqrt();
                } else {
                    return None;
                }
            }
        }
        let columns = (0..size).map(|column| {
            let mut x: Vec<f64> = (0..size).map(|i| f64::from(u8::from(i == column))).collect();
            for i in 0..size {
                x[i] = (x[i] - dot(&factor[i][..i], &x[..i])) / factor[i][i];
            }
            for i in (0..size).rev() {
                let below: f64 = (i + 1..size).map(|j| factor[j][i] * x[j]).sum();
                x[i] = (x[i] - below) / factor[i][i];
            }
            x
        });
        Some(Inverse(columns.collect()))
    }

    /// The product with a vector.
    pub(super) fn times(&self, x: &[f64]) -> Vec<f64> {
        self.0.iter().map(|row| dot(row, x)).collect()
    }

    /// `x' (X'X)^-1 x`: the variance of the prediction at `x`, in units of that of a point.
    pub(super) fn form(&self, x: &[f64]) -> f64 {
        dot(x, &self.times(x))
    }

    pub(super) fn diagonal(&self) -> impl Iterator<Item = f64> {
        self.0.iter().enumerate().map(|(i, row)| row[i])
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
