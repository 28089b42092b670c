//! The mixture regression against values by hand, refitting and a known surface.

use expect_test::expect;

use crate::mixture::{MixturePoint, Term, distance, fit, fit_terms, grid};

fn point(shares: &[f64], mean: f64) -> MixturePoint {
    MixturePoint { shares: shares.to_vec(), mean, standard_error: 0.01 }
}

/// Three sources with coefficients 0.5, 0.6 and 0.2, and blends with 0.8, 0 and -0.4.
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
fn a_known_quadratic_is_recovered() {
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
    // Without residuals, sigma is the standard error of the points.
    assert!((fit.sigma - 0.01).abs() < 1e-9);
    // Without the third: 0.5 + 0.1 y + 0.8 y (1 - y) is highest at y = 0.9 / 1.6 = 0.5625, of the grid at 0.56.
    let best = fit.best();
    assert_eq!(best.shares, [0.44, 0.56, 0.0]);
    assert!((best.mean - surface(&best.shares)).abs() < 1e-6);
}

#[test]
fn few_points_give_the_linear_model() {
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
    let left_out = fit.leave_one_out;
    assert!(
        (left_out.mae - 0.15).abs() < 1e-6 && (left_out.rmse - (0.0729f64 / 3.0).sqrt()).abs() < 1e-6,
        "{left_out:?}"
    );
    // The mean is 0.38; squares about it 0.0324, 0.0144, 0.0036.
    assert!((left_out.r2.unwrap() - (1.0 - 0.0729 / 0.0504)).abs() < 1e-4);
    // At the even mix the variance is 1/3 of sigma^2.
    let middle = fit.predict(&[0.5, 0.5]);
    assert!((middle.mean - 0.38).abs() < 1e-6 && (middle.standard_error - (0.0054f64 / 3.0).sqrt()).abs() < 1e-6);
}

#[test]
fn leave_one_out_equals_refitting() {
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
            let left_out = rest.remove(out);
            left_out.mean - fit_terms(&rest, &terms).unwrap().predict(&left_out.shares).mean
        })
        .collect();
    let mae = errors.iter().map(|error| error.abs()).sum::<f64>() / 15.0;
    let rmse = (errors.iter().map(|error| error * error).sum::<f64>() / 15.0).sqrt();
    assert!((whole.leave_one_out.mae - mae).abs() < 1e-9, "{} {mae}", whole.leave_one_out.mae);
    assert!((whole.leave_one_out.rmse - rmse).abs() < 1e-9);
}

#[test]
fn suggestions_keep_their_distance() {
    let fit = fit(&lattice()).unwrap();
    let next = fit.suggest(4);
    assert_eq!(next.len(), 4);
    // The first has the highest upper bound of all mixes at a distance of 0.1 from the measured ones.
    let measured: Vec<Vec<f64>> = fit.points.iter().map(|point| point.shares.clone()).collect();
    let apart = |shares: &[f64], others: &[Vec<f64>]| others.iter().all(|other| distance(shares, other) > 0.1 - 1e-6);
    let bounds =
        grid(3).into_iter().filter(|shares| apart(shares, &measured)).map(|shares| fit.predict(&shares).upper());
    assert!((bounds.fold(0.0, f64::max) - next[0].upper()).abs() < 1e-12);
    let mut all = measured;
    for one in next {
        assert!(apart(&one.shares, &all), "{:?}", one.shares);
        all.push(one.shares);
    }
    // A grid that is too small for 200 suggestions: their distance shrinks, but no mix is suggested twice.
    let line: Vec<_> = [0.0, 0.25, 0.5, 1.0].map(|x| point(&[x, 1.0 - x], x)).into();
    let many = crate::mixture::fit(&line).unwrap().suggest(200);
    assert_eq!(many.len(), 101 - 4);
}

#[test]
fn grids_have_limited_size() {
    assert_eq!(grid(2).len(), 101);
    assert_eq!(grid(3).len(), 5151);
    // 53 x 52 x 51 / 6 and 24 x 23 x 22 x 21 / 24.
    assert_eq!((grid(4).len(), grid(5).len()), (23426, 10626));
    assert_eq!(grid(30).len(), 4960);
    assert!(grid(4).iter().all(|mix| (mix.iter().sum::<f64>() - 1.0).abs() < 1e-9));
}

#[test]
fn invalid_points_are_refused() {
    let error = |points: &[MixturePoint]| fit(points).map(|_| ()).unwrap_err().to_string();
    let two = [point(&[1.0, 0.0], 0.2), point(&[0.0, 1.0], 0.5)];
    let same = [point(&[0.5, 0.5], 0.2), point(&[0.5, 0.5], 0.3), point(&[0.5, 0.5], 0.4)];
    let errors = [
        error(&[]),
        error(&two),
        error(&same),
        error(&[two[0].clone(), point(&[0.5, 0.4], 0.1)]),
        error(&[two[0].clone(), point(&[0.5, 0.3, 0.2], 0.1)]),
        error(&[point(&[0.5, 0.5], f64::NAN)]),
    ];
    expect![[r#"
        a mixture needs at least two sources and at least one measured mix
        2 measured mixes do not determine a model of 2 sources: measure more mixes than sources, with different shares, and every source in at least two mixes
        3 measured mixes do not determine a model of 2 sources: measure more mixes than sources, with different shares, and every source in at least two mixes
        the shares of mix 2 do not add up to 1: [0.5, 0.4]
        mix 2 has 3 shares, mix 1 has 2
        mix 1 has an invalid score: NaN with standard error 0.01"#]]
    .assert_eq(&errors.join("\n"));
}

#[test]
fn terminal_fit() {
    let points = [point(&[1.0, 0.0], 0.2), point(&[0.0, 1.0], 0.5), point(&[0.5, 0.5], 0.44)];
    assert!(fit(&points).unwrap().terminal(&["direct", "cot"], 1).contains("do not rely on it"));
    let text = fit(&lattice()).unwrap().terminal(&["direct", "cot", "fo\u{1b}rmat"], 2);
    expect![[r#"
        quadratic model of 8 measured mixes, standard deviation 1.0 points
        leave-one-out error: mean absolute 0.0 points, root mean square 0.0 points, R² 1.00

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
