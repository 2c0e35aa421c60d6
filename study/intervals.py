"""Rates, differences of rates and d', with intervals that hold for other people and other photos.

Answers of one person resemble each other, and so do answers about one photo. `rate` and
`difference` therefore treat both as random samples; `wilson` and `d_prime_interval` are for answers
that are independent, such as those of many people about one photo. `study.coverage` measures how
often these intervals hold.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from colorlib import ColorlibError

LEVEL = 0.95  # of every interval, unless told otherwise


# Single rates, and how well the two kinds are told apart


def wilson(successes, answers, level=LEVEL):
    """The score interval of a rate from independent answers (Wilson 1927), such as one photo's.

    Args:
        successes, answers: counts, numbers or arrays.

    Returns:
        low, high: between 0 and 1; NaN where there are no answers.
    """
    k, n = np.asarray(successes, float), np.asarray(answers, float)
    if (k < 0).any() or (k > n).any():
        raise ColorlibError("wilson: successes must be between 0 and the number of answers")
    z = stats.norm.ppf((1 + level) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (k + z**2 / 2) / (n + z**2)
        half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    # Exactly 0 and 1 at the ends, where rounding would leave a hair.
    low, high = np.where(k == 0, 0.0, middle - half), np.where(k == n, 1.0, middle + half)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def d_prime(hits, signals, false_alarms, noises, correct=True):
    """How well two kinds are told apart, and the leaning to one answer (Green and Swets 1966).

    d' = z(H) - z(F), and the criterion c = -(z(H) + z(F)) / 2. Here a hit is a colored photo that
    was called fake, and a false alarm is an original that was called fake: d' = 0 is guessing, and
    c > 0 leans to "real".

    Args:
        hits, signals: counts of hits and of colored photos, numbers or arrays.
        false_alarms, noises: counts of false alarms and of originals.
        correct: bool. Adds 0.5 to each count of answers and 1 to each count of photos (the
            log-linear correction, Hautus 1995), without which a person who is always right has an
            infinite d'.

    Returns:
        d', criterion.
    """
    more = 0.5 if correct else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        z_hit = stats.norm.ppf((np.asarray(hits) + more) / (np.asarray(signals) + 2 * more))
        z_false = stats.norm.ppf(
            (np.asarray(false_alarms) + more) / (np.asarray(noises) + 2 * more)
        )
    return z_hit - z_false, -(z_hit + z_false) / 2


def d_prime_interval(hits, signals, false_alarms, noises, level=LEVEL):
    """The interval of one person's d' from independent answers (Gourevitch and Galanter 1967).

    The variance of z(p) is about p (1 - p) / (n phi(z)^2), with the corrected rates and numbers of
    `d_prime`. With six photos of each kind, the 95 % interval holds a true d' from 0 to 2.5 in 95.6
    to 97.4 % of cases, with 20 in 95.2 to 96.5 % (all outcomes by their probability, with c = 0
    and 0.4). It holds for this person and these photos: answers of several people need `two_way`.

    Returns:
        low, high.
    """
    variance = 0
    for count, photos in ((hits, signals), (false_alarms, noises)):
        n = np.asarray(photos) + 1
        p = (np.asarray(count) + 0.5) / n
        variance = variance + p * (1 - p) / (n * stats.norm.pdf(stats.norm.ppf(p)) ** 2)
    d, _ = d_prime(hits, signals, false_alarms, noises)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(variance)
    return d - half, d + half


def d_prime_2afc(right, pairs, correct=True):
    """d' of a choice between two photos: sqrt(2) z(p) (Macmillan and Creelman 2005, chapter 7).

    Args:
        right, pairs: counts of right answers and of pairs, numbers or arrays.
        correct: bool. Adds 0.5 to the right answers and 1 to the pairs, as `d_prime` does. Without
            it d' is infinite where all answers are right.
    """
    more = 0.5 if correct else 0.0
    return np.sqrt(2) * stats.norm.ppf((np.asarray(right) + more) / (np.asarray(pairs) + 2 * more))


# Rates over people and photos


class TwoWay(NamedTuple):
    """A rate, or a difference of two, with its variance over people and photos and its parts."""

    value: float
    variance: float
    df: float
    df_people: float
    df_photos: float
    parts: tuple  # variances over people, over photos, and over single answers
    clusters: int  # people or photos (of one version), whichever are fewer


class Estimate(NamedTuple):
    """A number with its interval, standard error, degrees of freedom and p-value (against 0)."""

    value: float
    low: float
    high: float
    error: float
    df: float
    p: float


def two_way(said, people, photos, version=None) -> TwoWay:
    """The variance of a rate, or of a difference of rates, clustered by people and by photos.

    V = V(people) + V(photos) - V(people x photos) (Cameron, Gelbach and Miller 2011). Each V sums
    the squares of the clusters' summed residuals. A cluster's sum is divided by sqrt(1 - h), with
    h its share of the answers of a version: the CR2 correction of Bell and McCaffrey (2002), which
    for means makes unbiased what is too small with few clusters, above all with three originals.
    V is at least V(people) and V(photos), because the three terms can cancel to less than either
    and even below zero (the "max-se" rule of MacKinnon, Nielsen and Webb 2024).

    The degrees of freedom of each way are Welch's and Satterthwaite's over the clusters that have
    the same versions: photos - 1 for one rate, and close to what the smaller set of photos has
    where that one dominates. The smaller way counts. This was chosen by measurement: with 9 colored
    photos and 3 originals, the 95 % interval of a difference holds too seldom with min - 1 degrees
    of freedom, and nearly always with those of the smaller set (tests/benchmarks/README.md).

    Args:
        said: array (answers,) of 0 and 1.
        people, photos: arrays (answers,) of labels.
        version: None for one rate, else array (answers,) of 1 for the first rate of the difference
            and 0 for the second.
    """
    said = np.asarray(said, float)
    group = np.zeros(len(said), int) if version is None else 1 - np.asarray(version, int)
    count = np.bincount(group, minlength=1 if version is None else 2)
    people, photos = _codes(people, count, group, "people"), _codes(photos, count, group, "photos")
    mean = np.bincount(group, said, len(count)) / count
    residual = np.where(group == 0, 1, -1) * (said - mean[group]) / count[group]
    cells = pd.factorize(people * (photos.max() + 1) + photos)[0]
    ways = [_clustered(residual, group, count, codes) for codes in (people, photos, cells)]
    (v_people, df_people), (v_photos, df_photos), (v_cells, _) = ways
    return TwoWay(
        value=float(mean[0] - mean[1:].sum()),
        variance=max(v_people + v_photos - v_cells, v_people, v_photos),
        df=min(df_people, df_photos),
        df_people=df_people,
        df_photos=df_photos,
        parts=(v_people, v_photos, v_cells),
        clusters=min(len(np.unique(c[group == g])) for c in (people, photos) for g in set(group)),
    )


def _codes(labels, count, group, what):
    codes = pd.factorize(np.asarray(labels))[0]
    for number in range(len(count)):
        seen = codes[group == number]
        if not len(seen) or (seen == seen[0]).all():
            raise ColorlibError(
                f"a rate over people and photos needs two {what} or more of each version; "
                f"there is {'one' if len(seen) else 'none'}"
            )
    return codes


def _clustered(residual, group, count, codes):
    """One way's variance and its degrees of freedom."""
    shape = codes.max() + 1, len(count)
    index = codes * shape[1] + group
    sums = np.bincount(index, residual, shape[0] * shape[1]).reshape(shape)
    sizes = np.bincount(index, minlength=shape[0] * shape[1]).reshape(shape)
    squares = (sums / np.sqrt(1 - sizes / count)).sum(axis=1) ** 2
    kind = (sizes > 0) @ (2 ** np.arange(shape[1]))
    total, members = np.bincount(kind, squares), np.bincount(kind)
    free = np.maximum(members - 1, 1)
    if not total.sum():
        return 0.0, float(shape[0] - 1)
    return float(total.sum()), float(total.sum() ** 2 / (total**2 / free).sum())


def _limits(found: TwoWay, level, df):
    """The t interval of a rate on the logit, brought back to rates; Wilson's without any spread."""
    if not found.variance:
        return tuple(map(float, wilson(found.value * found.clusters, found.clusters, level)))
    half = stats.t.ppf((1 + level) / 2, df) * np.sqrt(found.variance)
    half /= found.value * (1 - found.value)  # the logit's slope (the delta method)
    low, high = special.expit(special.logit(found.value) + np.array([-half, half]))
    return float(low), float(high)


def _estimate(found: TwoWay, low, high):
    error = np.sqrt(found.variance)
    p = 2 * stats.t.sf(abs(found.value) / error, found.df) if error else np.nan
    return Estimate(found.value, float(low), float(high), float(error), found.df, float(p))


def rate(said, people, photos, level=LEVEL) -> Estimate:
    """A rate with a t interval over people and photos (see `two_way`).

    The interval is computed on the logit (log odds). It stays between 0 and 1 and is longer toward
    0.5, so that it misses on either side equally often; near 0 or 1 an interval of equal arms does
    not (tests/benchmarks/README.md).

    If all answers are the same, they have no spread. The interval is then Wilson's, with the
    number of people or of photos, whichever is smaller, in place of the number of answers.
    """
    found = two_way(said, people, photos)
    return _estimate(found, *_limits(found, level, found.df))


def difference(said, people, photos, colored, level=LEVEL) -> Estimate:
    """The rate of colored photos minus that of originals, with its interval (see `two_way`).

    The interval is put together from those of the two rates (`difference_limits`). p is that of
    the difference over its standard error, by Student's t.

    Args:
        colored: array (answers,) of bool.
    """
    parts = two_ways(said, people, photos, colored)
    return _estimate(parts[0], *difference_limits(*parts, level=level))


def two_ways(said, people, photos, colored) -> tuple[TwoWay, TwoWay, TwoWay]:
    """`two_way` of the difference, of the colored photos' rate and of the originals' rate."""
    said, people, photos = (np.asarray(values) for values in (said, people, photos))
    colored = np.asarray(colored, bool)
    both = two_way(said, people, photos, colored)
    kinds = colored, ~colored
    return both, *(two_way(said[kind], people[kind], photos[kind]) for kind in kinds)


def difference_limits(both, colored, originals, level=LEVEL, df=None):
    """The interval of a difference of two rates, from the intervals of the rates.

    Each limit takes the squared distances of the rates from their own limits, less twice their
    product times the correlation of the rates (Zou and Donner 2008, with the covariance as in Zou
    2007). With rates near 0.5 this is the t interval of the difference; near 0 and 1 its arms
    differ as those of the rates do.

    Args:
        both, colored, originals: what `two_ways` returns.
        df: degrees of freedom of both rates' intervals; by default those of the difference.

    Returns:
        low, high: between -1 and 1.
    """
    df = both.df if df is None else df
    (low, high), (low_0, high_0) = (_limits(part, level, df) for part in (colored, originals))
    errors = np.sqrt(colored.variance * originals.variance)
    shared = (colored.variance + originals.variance - both.variance) / 2
    r = np.clip(shared / errors, -1, 1) if errors else 0.0

    def arm(one, other):
        return np.sqrt(max(one**2 + other**2 - 2 * r * one * other, 0))

    down = arm(colored.value - low, high_0 - originals.value)
    up = arm(high - colored.value, originals.value - low_0)
    return both.value - down, both.value + up


def holm(p_values) -> np.ndarray:
    """Adjusted p-values of several comparisons (Holm 1979): array (comparisons,)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
