"""Numbers for the tests of src/report/statistics, from scipy: pip install numpy scipy; python statistics.py"""
import numpy as np
from scipy import stats

for b, c in [(6, 1), (115, 189), (73, 43), (62, 60), (0, 5), (1, 0), (400, 520)]:
    print("mcnemar", b, c, repr(float(stats.binomtest(min(b, c), b + c, 0.5).pvalue)))

x = np.array([((i * 7) % 11 - 4) / 10 for i in range(40)])
seen = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=1_000_000, rng=0)
print("sign flip", x.mean(), seen.pvalue)
