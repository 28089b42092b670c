"""Cases for src/report/statistics: pip install numpy scipy; python make_statistics.py > statistics.jsonl

200 random series (seeds x items, some with images of several questions, some with two or three data sets) with variance, interval and p-value, by
numpy and scipy: the mean squares from explicit loops over a table of pairs, the distribution of the error by adaptive
quadrature over the seeds' chi-squared variable and Gauss-Legendre quadrature of the quantile functions of the other two.
"""
import json
import math

import numpy as np
from scipy import integrate, optimize, special, stats

ALPHA, EXTRA, SMALLEST = 0.05, 1.0, 1e-3
rng = np.random.default_rng(20261130)


def case(number):
    """Pairs as (data set, image, seed, value)."""
    seeds = int(rng.choice([1, 2, 3, 3, 4, 5, 10]))
    difference = bool(number % 2)
    share, seed_sd = rng.choice([0.03, 0.3, 0.5, 0.8, 0.97]), rng.choice([0.0, 0.2, 0.5])
    graded = rng.random() < 0.2
    pairs, image = [], 0
    levels = rng.normal(0, seed_sd, (2, seeds))
    for dataset in range(int(rng.choice([1, 1, 2, 3]))):
        per_image = int(rng.choice([1, 1, 3]))
        for _ in range(int(rng.integers(8, 40))):
            shared = rng.normal(0, 0.5)
            for _ in range(per_image):
                easy = shared + rng.normal(0, 0.7)
                for seed in range(seeds):
                    def score(arm):
                        right = stats.norm.cdf(stats.norm.ppf(share) * 1.3 + easy + levels[arm, seed])
                        value = float(rng.random() < right)
                        return round(value * float(rng.random()), 3) if graded else value
                    value = score(0) - score(1) if difference else score(0)
                    pairs.append((dataset, image, seed, value))
            image += 1
    if all(value == pairs[0][3] for *_, value in pairs):
        return case(number)
    return difference, pairs


def mean_squares(pairs):
    """The average, the mean of squares, and variance and degrees of freedom of clusters, seeds and both."""
    datasets = sorted({d for d, *_ in pairs})
    seeds = sorted({s for _, _, s, _ in pairs})
    value = {d: np.mean([v for e, _, _, v in pairs if e == d]) for d in datasets}
    square = np.mean([np.mean([v * v for e, _, _, v in pairs if e == d]) for d in datasets])
    count = {d: sum(e == d for e, *_ in pairs) for d in datasets}
    error = [(d, c, s, (v - value[d]) / (len(datasets) * count[d])) for d, c, s, v in pairs]
    by_cluster, satterthwaite, by_both = 0.0, 0.0, 0.0
    for d in datasets:
        clusters = sorted({c for e, c, _, _ in error if e == d})
        table = np.zeros((len(clusters), len(seeds)))
        for e, c, s, x in error:
            if e == d:
                table[clusters.index(c), seeds.index(s)] += x
        n, m = table.shape
        part = n * np.var(table.sum(1)) * n / (n - 1)
        by_cluster += part
        satterthwaite += part * part / (n - 1)
        if m > 1:
            rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
            by_both += (rest**2).sum() * n * m / ((n - 1) * (m - 1))
    by_seed = 0.0
    if len(seeds) > 1:
        sums = [sum(x for _, _, s, x in error if s == seed) for seed in seeds]
        by_seed = len(seeds) / (len(seeds) - 1) * float(np.sum(np.square(sums)))
    freedom = by_cluster**2 / satterthwaite
    clusters = len({c for _, c, _, _ in pairs})
    return np.mean(list(value.values())), square, clusters, len(seeds), (by_cluster, freedom), by_seed, by_both


def beyond(size, first, freedom, second, seeds, third):
    """P(|Z| sqrt(first / X1 + second / X2 - third / X3) > size)."""
    extra = max(1 - third / first, 0) * (third / second if second > third else 1)
    nu2, nu3 = seeds - 1 + EXTRA * extra, freedom * (seeds - 1)
    points, weights = np.polynomial.legendre.leggauss(48)
    u, w = (points + 1) / 2, weights / 2
    x1, x3 = stats.chi2.ppf(u, freedom) / freedom, stats.chi2.ppf(u, nu3) / nu3

    def given(y):
        x2 = math.exp(y)
        total = np.maximum(first / x1[:, None] + second / x2 - third / x3[None, :], SMALLEST * first / x1[:, None])
        tail = (w[:, None] * w[None, :] * 2 * stats.norm.sf(size / np.sqrt(total))).sum()
        return tail * stats.chi2.pdf(x2 * nu2, nu2) * nu2 * x2

    deviation = math.sqrt(2 / nu2)
    edges = [-60 / nu2 - 8 * deviation, -3 * deviation, -deviation, 0, deviation, math.log(1 + 60 / nu2 + 8 * deviation)]
    return sum(integrate.quad(given, a, b, limit=200)[0] for a, b in zip(edges, edges[1:]))


def analyse(difference, pairs):
    mean, square, clusters, seeds, (by_cluster, freedom), by_seed, by_both = mean_squares(pairs)
    centre, first, of_t = mean, by_cluster, freedom
    if difference:
        items = (square - mean**2) / by_cluster + 1 if by_cluster > 0 else clusters
        centre = mean * items / (items + 2)
        first = ((items * square + 2) / (items + 2) - centre**2) / (items + 2)
    if seeds < 3:
        if seeds == 1 and clusters == len(pairs) and all(v in (-1, 0, 1) for *_, v in pairs):
            of_t = math.inf
        variance, tail = first, lambda size: 2 * stats.t.sf(size / math.sqrt(first), of_t)
        half = stats.t.ppf(1 - ALPHA / 2, of_t) * math.sqrt(first)
    else:
        variance = max(first + by_seed - by_both, SMALLEST * first)
        tail = lambda size: beyond(size, first, freedom, by_seed, seeds, by_both)
        high = 2 * math.sqrt(variance)
        while tail(high) > ALPHA:
            high *= 2
        half = optimize.brentq(lambda size: tail(size) - ALPHA, high / 64, high, rtol=1e-6)
    if difference:
        low, high = max(centre - half, -1), min(centre + half, 1)
        p = tail(abs(centre)) if seeds >= 3 else None
    else:
        spread, p = mean * (1 - mean), None
        n = spread / variance + 1
        if all(v in (0, 1) for *_, v in pairs):
            n = min(n, len(pairs))
        n *= (stats.norm.ppf(1 - ALPHA / 2) * math.sqrt(variance) / half) ** 2

        def lower(x):
            mid_p = lambda share: (special.betainc(x, n - x + 1, share) + special.betainc(x + 1, n - x, share)) / 2
            return optimize.brentq(lambda share: mid_p(share) - ALPHA / 2, 0, 1, xtol=1e-12)

        low, high = lower(mean * n), 1 - lower(n - mean * n)
    return {"mean": mean, "by_cluster": by_cluster, "freedom": freedom, "by_seed": by_seed, "by_both": by_both,
            "low": low, "high": high, "p": p}


for number in range(200):
    difference, pairs = case(number)
    found = analyse(difference, pairs)
    print(json.dumps({"difference": difference, "pairs": pairs, **found}, separators=(",", ":")))
