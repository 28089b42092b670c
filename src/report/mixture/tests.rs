//! The mixture regression against numbers by hand, brute force and a known surface.

use expect_test::expect;

use super::{MixturePoint, Term, difference, fit, fit_terms, grid};

fn point(shares: &[f64], mean: f64) -> MixturePoint {
    MixturePoint { shares: shares.to_vec(), mean, error: 0.01 }
}

/// Three sources: 0.5, 0.6 and 0.2 alone, and blends of 0.8, 0 and -0.4.
fn surface(x: &[f64]) -> f64 {
    0.5 * x[0] + 0.6 * x[1] + 0.2 * x[2] + 0.8 * x[0] * x[1] - 0.4 * x[1] * x[2]
}

fn lattice() -> Vec<MixturePoint> {
    let thirds = [
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0],
        [0.5, 0.5, 0.0],
        [0.5, 0.0, 0.5],
        [0.0, 0.5, 0.5],
        [1.0 / 3.0; 3],
        [0.6, 0.2, 0.2],
    ];
    thirds.iter().map(|shares| point(shares, surface(shares))).collect()
}

#[test]
fn a_known_quadratic_is_found_again_from_its_points() {
    let fit = fit(&lattice()).unwrap();
    assert!(fit.quadratic);
    let found: Vec<(Term, f64)> = fit.coefficients.iter().map(|one| (one.term, one.value)).collect();
    let known = [
        (Term::Source(0), 0.5),
        (Term::Source(1), 0.6),
        (Term::Source(2), 0.2),
        (Term::Blend(0, 1), 0.8),
        (Term::Blend(0, 2), 0.0),
        (Term::Blend(1, 2), -0.4),
    ];
    for ((term, value), (known_term, known_value)) in found.iter().zip(&known) {
        assert_eq!(term, known_term);
        assert!((value - known_value).abs() < 1e-6, "{term:?} {value}");
    }
    assert!(fit.leave_one_out.rmse < 1e-6 && fit.leave_one_out.r2 > Some(0.999_999));
    // No residuals: what is left is the points' own error.
    assert!((fit.sigma - 0.01).abs() < 1e-9);
    // Without the third: 0.5 + 0.1 y + 0.8 y (1 - y) is highest at y = 0.9 / 1.6 = 0.5625, of the grid at 0.56.
    let best = fit.best();
    assert_eq!(best.shares, [0.44, 0.56, 0.0]);
    assert!((best.mean - surface(&best.shares)).abs() < 1e-6);
}

#[test]
fn too_few_points_for_blends_give_the_linear_model() {
    // Two sources, three points: y = 0.2 a + 0.5 b + residual. By hand with a = (1, 0, 0.5), b = 1 - a and
    // y = (0.2, 0.5, 0.44): X'X = [1.25 0.25; 0.25 1.25], X'y = (0.42, 0.72);
    // its inverse is [1.25 -0.25; -0.25 1.25] / 1.5, so b = (0.345, 0.795) / 1.5 = (0.23, 0.53).
    let points = [point(&[1.0, 0.0], 0.2), point(&[0.0, 1.0], 0.5), point(&[0.5, 0.5], 0.44)];
    let fit = fit(&points).unwrap();
    assert!(!fit.quadratic);
    let values: Vec<f64> = fit.coefficients.iter().map(|one| one.value).collect();
    assert!((values[0] - 0.23).abs() < 1e-6 && (values[1] - 0.53).abs() < 1e-6, "{values:?}");
    // Residuals -0.03, -0.03, 0.06 with one degree of freedom: sigma^2 = 0.0054.
    assert!((fit.sigma - 0.0054f64.sqrt()).abs() < 1e-6);
    // Leverages 5/6, 5/6, 1/3: left out, the errors are -0.18, -0.18 and 0.09.
    let told = fit.leave_one_out;
    assert!((told.mae - 0.15).abs() < 1e-6 && (told.rmse - (0.0729f64 / 3.0).sqrt()).abs() < 1e-6, "{told:?}");
    // The mean is 0.38; squares about it 0.0324, 0.0144, 0.0036.
    assert!((told.r2.unwrap() - (1.0 - 0.0729 / 0.0504)).abs() < 1e-4);
    // At the even mix the variance is 1/3 of sigma^2.
    let middle = fit.predict(&[0.5, 0.5]);
    assert!((middle.mean - 0.38).abs() < 1e-6 && (middle.error - (0.0054f64 / 3.0).sqrt()).abs() < 1e-6);
}

#[test]
fn leaving_one_out_is_what_fitting_again_gives() {
    // All mixes in steps of a quarter, with errors of up to 3 points.
    let quarters = (0..=4).flat_map(|a| (0..=4 - a).map(move |b| [a, b, 4 - a - b].map(|part| f64::from(part) / 4.0)));
    let noise = |number: usize| ((number * 7) % 15) as f64 / 15.0 * 0.06 - 0.03;
    let points: Vec<MixturePoint> =
        quarters.enumerate().map(|(number, shares)| point(&shares, surface(&shares) + noise(number))).collect();
    let whole = fit(&points).unwrap();
    let terms: Vec<Term> = whole.coefficients.iter().map(|one| one.term).collect();
    let errors: Vec<f64> = (0..points.len())
        .map(|out| {
            let mut rest = points.clone();
            let gone = rest.remove(out);
            gone.mean - fit_terms(&rest, &terms).unwrap().predict(&gone.shares).mean
        })
        .collect();
    let mae = errors.iter().map(|error| error.abs()).sum::<f64>() / 15.0;
    let rmse = (errors.iter().map(|error| error * error).sum::<f64>() / 15.0).sqrt();
    assert!((whole.leave_one_out.mae - mae).abs() < 1e-9, "{} {mae}", whole.leave_one_out.mae);
    assert!((whole.leave_one_out.rmse - rmse).abs() < 1e-9);
}

#[test]
fn suggestions_are_promising_new_and_apart() {
    let fit = fit(&lattice()).unwrap();
    let next = fit.suggest(4);
    assert_eq!(next.len(), 4);
    // The first is the highest bound of the whole grid that is a tenth away from what was measured.
    let measured: Vec<Vec<f64>> = fit.points.iter().map(|point| point.shares.clone()).collect();
    let apart = |shares: &[f64], others: &[Vec<f64>]| others.iter().all(|other| difference(shares, other) > 0.1 - 1e-6);
    let bounds =
        grid(3).into_iter().filter(|shares| apart(shares, &measured)).map(|shares| fit.predict(&shares).upper());
    assert!((bounds.fold(0.0, f64::max) - next[0].upper()).abs() < 1e-12);
    let mut all = measured;
    for one in next {
        assert!(apart(&one.shares, &all), "{:?}", one.shares);
        all.push(one.shares);
    }
    // A grid that is too small for so many: they move together, and none comes twice.
    let line: Vec<_> = [0.0, 0.25, 0.5, 1.0].map(|x| point(&[x, 1.0 - x], x)).into();
    let many = super::fit(&line).unwrap().suggest(200);
    assert_eq!(many.len(), 101 - 4);
}

#[test]
fn a_grid_is_as_fine_as_it_can_be_afforded() {
    assert_eq!(grid(2).len(), 101);
    assert_eq!(grid(3).len(), 5151);
    // 53 x 52 x 51 / 6 and 24 x 23 x 22 x 21 / 24.
    assert_eq!((grid(4).len(), grid(5).len()), (23426, 10626));
    assert_eq!(grid(30).len(), 4960);
    assert!(grid(4).iter().all(|mix| (mix.iter().sum::<f64>() - 1.0).abs() < 1e-9));
}

#[test]
fn what_cannot_be_fitted_is_told() {
    let told = |points: &[MixturePoint]| fit(points).map(|_| ()).unwrap_err().to_string();
    let two = [point(&[1.0, 0.0], 0.2), point(&[0.0, 1.0], 0.5)];
    let same = [point(&[0.5, 0.5], 0.2), point(&[0.5, 0.5], 0.3), point(&[0.5, 0.5], 0.4)];
    let answers = [
        told(&[]),
        told(&two),
        told(&same),
        told(&[two[0].clone(), point(&[0.5, 0.4], 0.1)]),
        told(&[two[0].clone(), point(&[0.5, 0.3, 0.2], 0.1)]),
        told(&[point(&[0.5, 0.5], f64::NAN)]),
    ];
    expect![[r#"
        a mixture has at least two sources, and there must be measured mixes of it
        2 measured mixes do not tell 2 sources apart: there must be more of them than sources, of different shares, and every source in at least two
        3 measured mixes do not tell 2 sources apart: there must be more of them than sources, of different shares, and every source in at least two
        the shares of mix 2 are no shares of 1: [0.5, 0.4]
        mix 2 has 3 sources, the first one 2
        mix 1 has no score with a standard error: NaN and 0.01"#]]
    .assert_eq(&answers.join("\n"));
}

#[test]
fn a_fit_reads_well_in_a_terminal() {
    let guess = [point(&[1.0, 0.0], 0.2), point(&[0.0, 1.0], 0.5), point(&[0.5, 0.5], 0.44)];
    assert!(fit(&guess).unwrap().terminal(&["direct", "cot"], 1).contains("is a guess"));
    let text = fit(&lattice()).unwrap().terminal(&["direct", "cot", "fo\u{1b}rmat"], 2);
    expect![[r#"
        quadratic model of 8 measured mixes, standard deviation 1.0 points
        each mix told by the others: off by 0.0 points on average (root mean square 0.0), R² 1.00

        direct               50.0 ± 1.0
        cot                  60.0 ± 1.0
        fo rmat              20.0 ± 1.0
        direct x cot         80.0 ± 4.5
        direct x fo rmat      0.0 ± 4.5
        cot x fo rmat       -40.0 ± 4.6

                    direct   cot fo rmat   predicted
        best          44 %  56 %     0 %   75.3 ± 0.9
        try next 1    40 %  60 %     0 %   75.2 ± 0.9
        try next 2    30 %  70 %     0 %   73.8 ± 0.8
    "#]]
    .assert_eq(&text);
}
