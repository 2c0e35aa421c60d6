"""A ranking of photos by how often they are called real, with few answers for each.

An extreme share of a few answers is partly luck. A hierarchical model draws each share toward the
mean of all, more strongly where there are fewer answers. What it does not know about the mean and
the spread of the photos is part of every interval: both are integrated over a grid, not estimated
and then taken for known (empirical Bayes), with which an interval of 95 % holds far less often.
"""

from functools import cache

import numpy as np
import pandas as pd
from scipy import special, stats

from colorlib import ColorlibError
from study.intervals import LEVEL

PEOPLE_SD = 0.72  # of the leanings of people on the logit, where the answers don't show it

# The grid of a photo's rate, on the logit. Its step is a point or less, fine enough for a thousand
# answers.
_RATES = np.linspace(-9, 9, 361)
_MEANS, _SPREADS = np.linspace(-6, 6, 61), np.geomspace(0.05, 4, 25)  # of the photos, on the logit


def rank_photos(counts, people_sd=PEOPLE_SD, seed=1, draws=4000, level=LEVEL) -> pd.DataFrame:
    """Photos by how often they are called real, shrunk toward their mean where answers are few.

    On the logit the photos are normal, with a mean of N(0, 1.5) and an SD of half-normal(1) before
    any answer is seen (Gelman 2006 on such priors). Everybody judges many photos, so a few people
    who lean to "real" raise all shares together; `people_sd` says how far people differ. The
    intervals hold for other people and for these photos (tests/benchmarks/README.md).

    Args:
        counts: DataFrame with `answers` and `said_real`, a row for each photo, of one kind only:
            colored photos and originals have no common mean.
        people_sd: float. The SD of people's leanings on the logit, such as `mixed_model` finds; 0
            if each answer is another person's.
        seed, draws: int. Ranks are drawn at random.

    Returns:
        The rows, best first, with shrunk, shrunk_low, shrunk_high, rank, rank_low, rank_high.
    """
    k, n = counts["said_real"].to_numpy(float), counts["answers"].to_numpy(float)
    if len(k) < 3:
        raise ColorlibError(f"rank_photos: needs three photos or more. Received: {len(k)}")
    # With the leanings given, a photo's answers vary less than a binomial: p (1 - p) is smaller by
    # about (p (1 - p) SD)^2, which is the share SD^2 / 4 of it at p = 0.5.
    known = 1 + people_sd**2 / 4
    likelihood, evidence, weights = _posterior(k * known, n * known)
    alone = likelihood * ((weights[:, None] / evidence).T @ _prior()[0])
    # The mean leaning of these people, by which the rates of all people may be elsewhere.
    shifted = alone / alone.sum(axis=1, keepdims=True) @ _blur(people_sd / np.sqrt(n.max()))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.transpose([_quantiles(row, tails) for row in shifted])
    ranks = _drawn_ranks(likelihood, weights, np.random.default_rng(seed), draws)
    rank_low, rank_high = np.quantile(ranks, tails, axis=0, method="nearest")
    table = counts.assign(
        shrunk=shifted @ special.expit(_RATES),
        shrunk_low=special.expit(low),
        shrunk_high=special.expit(high),
        rank_low=rank_low.astype(int),
        rank_high=rank_high.astype(int),
    ).sort_values("shrunk", ascending=False, kind="stable", ignore_index=True)
    return table.assign(rank=np.arange(1, len(table) + 1))


@cache
def _prior():
    """For each mean and spread on the grid, the rates' distribution: (pairs, rates); their logs."""
    # A spread below the grid's step would fall between two rates.
    step = _RATES[1] - _RATES[0]
    spread = np.maximum(_SPREADS, 0.6 * step)[None, :, None]
    rates = stats.norm.pdf(_RATES, _MEANS[:, None, None], spread).reshape(-1, len(_RATES))
    # On a grid of logarithms, each spread stands for an interval as long as itself.
    of_spread = stats.halfnorm.logpdf(_SPREADS) + np.log(_SPREADS)
    pairs = stats.norm.logpdf(_MEANS, 0, 1.5)[:, None] + of_spread
    return rates / rates.sum(axis=1, keepdims=True), pairs.ravel()


def _posterior(k, n):
    """Of the pairs of mean and spread: each photo's evidence (pairs, photos), and the weights.

    Before them, each photo's likelihood (photos, rates).
    """
    log = k[:, None] * special.log_expit(_RATES) + (n - k)[:, None] * special.log_expit(-_RATES)
    likelihood = np.exp(log - log.max(axis=1, keepdims=True))
    prior, pairs = _prior()
    evidence = np.maximum(prior @ likelihood.T, 1e-300)  # 0 where a pair can't be
    weights = pairs + np.log(evidence).sum(axis=1)
    weights = np.exp(weights - weights.max())
    return likelihood, evidence, weights / weights.sum()


def _blur(sd):
    """The matrix (rates, rates) that adds a normal deviation of this SD to a distribution."""
    distance = _RATES - _RATES[:, None]
    kernel = np.exp(-0.5 * (distance / max(sd, 1e-6)) ** 2)
    return kernel / kernel.sum(axis=1, keepdims=True)


def _quantiles(density, shares):
    return np.interp(shares, np.cumsum(density) - density / 2, _RATES)


def _drawn_ranks(likelihood, weights, rng, draws):
    """Ranks (draws, photos), 1 for the highest rate, of rates drawn together."""
    pairs, place = np.unique(rng.choice(len(weights), draws, p=weights), return_inverse=True)
    prior, step = _prior()[0][pairs], _RATES[1] - _RATES[0]
    rates = np.empty((draws, len(likelihood)))
    for photo, row in enumerate(likelihood):
        shares = np.cumsum(prior * row, axis=1)
        shares /= shares[:, -1:]
        below = (shares[place] < rng.random((draws, 1))).sum(axis=1)
        rates[:, photo] = _RATES[below] + step * rng.uniform(-0.5, 0.5, draws)
    return stats.rankdata(-rates, axis=1).astype(int)
