"""The statistics of a study, with intervals that hold for other people and other photos.

Answers are a table with a row for each answer: `participant`, `scene` (the photo, in any version),
`stimulus` (the file that was shown), `method` (`original`, or what colored it) and `said_real` or,
where two photos were compared, `correct`. These are 1, 0, or NaN for a missing answer, which is
left out and never counted as either.

Answers of one person resemble each other, and so do answers about one photo. Intervals of rates
therefore treat both as random samples (`rate`, `difference`, `mixed_model`). They never treat
single answers as independent: such intervals are far too narrow, as `study.simulation.coverage`
shows.

Wrong values raise a `ColorlibError` of one line.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from colorlib import ColorlibError
from study.answers import (  # noqa: F401  a study is read and analyzed through one module
    ORIGINAL,
    Study,
    exclusion_table,
    flag_exclusions,
    read_export,
)

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


def d_prime_2afc(share_correct):
    """d' of a choice between two photos: sqrt(2) z(p) (Macmillan and Creelman 2005, chapter 7)."""
    return np.sqrt(2) * stats.norm.ppf(share_correct)


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
    where that one dominates. The smaller way counts. This was chosen by measurement:
    `python tests/benchmarks/study_coverage.py --mixed 0` (2,000 simulated studies a design, seed 1)
    found the 95 % interval of a difference to hold 95.7, 94.7 and 95.7 % of the time at 41 x 12,
    60 x 24 and 200 x 54 people and photos with equal halves, and 93.7 % with 9 colored photos and
    3 originals, where min - 1 degrees of freedom held 92.2 %; that of one rate held 94.5 to 96.0 %
    in all designs, and 34 to 73 % when answers were taken for independent.

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


def _interval(found: TwoWay, level, bounds) -> Estimate:
    error = np.sqrt(found.variance)
    half = stats.t.ppf((1 + level) / 2, found.df) * error
    low, high = np.clip([found.value - half, found.value + half], *bounds)
    p = 2 * stats.t.sf(abs(found.value) / error, found.df) if error else np.nan
    return Estimate(found.value, float(low), float(high), float(error), found.df, float(p))


def rate(said, people, photos, level=LEVEL) -> Estimate:
    """A rate with a t interval over people and photos (see `two_way`).

    If all answers are the same, they have no spread. The interval is then Wilson's, with the
    number of people or of photos, whichever is smaller, in place of the number of answers.
    """
    found = two_way(said, people, photos)
    estimate = _interval(found, level, (0, 1))
    if not found.variance:
        low, high = wilson(found.value * found.clusters, found.clusters, level)
        estimate = estimate._replace(low=float(low), high=float(high))
    return estimate


def difference(said, people, photos, colored, level=LEVEL) -> Estimate:
    """The rate of colored photos minus that of originals, with its interval (see `two_way`).

    Args:
        colored: array (answers,) of bool.
    """
    return _interval(two_way(said, people, photos, colored), level, (-1, 1))


def holm(p_values) -> np.ndarray:
    """Adjusted p-values of several comparisons (Holm 1979): array (comparisons,)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


# Tables of a study


def methods(answers) -> list[str]:
    """The methods in a table of answers, in alphabetical order, without `original`."""
    return sorted(set(answers["method"]) - {ORIGINAL})


def _given(answers, column="said_real"):
    given = answers[answers[column].notna()]
    if given.empty:
        raise ColorlibError(f"{column}: the table holds no answer of this kind")
    return given


def _sizes(answers):
    return {
        "answers": len(answers),
        "people": answers["participant"].nunique(),
        "photos": answers["scene"].nunique(),
    }


def acceptance(answers, level=LEVEL) -> pd.DataFrame:
    """How often photos are called real: a row for the originals and for each method.

    Columns: answers, people, photos, share, low, high, df, and `naive_low` and `naive_high`, the
    interval that treats every answer as independent, which is shown but not used.
    """
    given, rows = _given(answers), {}
    for method in [ORIGINAL] * (ORIGINAL in set(given["method"])) + methods(given):
        part = given[given["method"] == method]
        found = rate(part["said_real"], part["participant"], part["scene"], level)
        naive = wilson(part["said_real"].sum(), len(part), level)
        rows[method] = {
            **_sizes(part),
            "share": found.value,
            "low": found.low,
            "high": found.high,
            "df": found.df,
            "naive_low": float(naive[0]),
            "naive_high": float(naive[1]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def differences(answers, level=LEVEL) -> pd.DataFrame:
    """Each method's acceptance minus that of the originals, with Holm's p-values over methods.

    Columns: difference, low, high, df, p, p_holm. Intervals are not adjusted.
    """
    given, rows = _given(answers), {}
    for method in methods(given):
        part = given[given["method"].isin([method, ORIGINAL])]
        colored = part["method"] == method
        found = difference(part["said_real"], part["participant"], part["scene"], colored, level)
        rows[method] = {
            "difference": found.value,
            "low": found.low,
            "high": found.high,
            "df": found.df,
            "p": found.p,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return table.assign(p_holm=holm(table["p"]))


def per_photo(answers, level=LEVEL) -> pd.DataFrame:
    """How often each stimulus was called real, with Wilson intervals.

    Returns:
        A row for each stimulus, the most often accepted first: scene, method, answers, said_real,
        share, low, high.
    """
    given = _given(answers)
    counts = given.groupby(["stimulus", "scene", "method"], as_index=False).agg(
        answers=("said_real", "size"), said_real=("said_real", "sum")
    )
    return with_intervals(counts, level)


def with_intervals(counts, level=LEVEL) -> pd.DataFrame:
    """Adds share, low and high (Wilson) to a table with `answers` and `said_real`, and sorts it."""
    low, high = wilson(counts["said_real"], counts["answers"], level)
    table = counts.assign(share=counts["said_real"] / counts["answers"], low=low, high=high)
    return table.sort_values("share", ascending=False, kind="stable", ignore_index=True)


def sensitivity(answers) -> pd.DataFrame:
    """d' and criterion of each person for each method against the originals, and pooled.

    Returns:
        A row for each method and person: method, participant, colored, called_fake (of them),
        originals, doubted (of them called fake), d_prime, criterion; the participant `pooled` has
        everybody's answers as one person's.
    """
    given, rows = _given(answers), []
    fake = given.assign(fake=1 - given["said_real"])
    counts = fake.groupby(["method", "participant"])["fake"].agg(["size", "sum"])
    for method in methods(given):
        both = counts.loc[method].join(
            counts.loc[ORIGINAL], how="inner", suffixes=("", "_original")
        )
        both.loc["pooled"] = both.sum()
        d, criterion = d_prime(*both[["sum", "size", "sum_original", "size_original"]].T.to_numpy())
        rows.append(
            pd.DataFrame(
                {
                    "method": method,
                    "participant": both.index,
                    "colored": both["size"].to_numpy(int),
                    "called_fake": both["sum"].to_numpy(int),
                    "originals": both["size_original"].to_numpy(int),
                    "doubted": both["sum_original"].to_numpy(int),
                    "d_prime": d,
                    "criterion": criterion,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def sensitivity_summary(table, level=LEVEL) -> pd.DataFrame:
    """The mean over people of `sensitivity`, with t intervals, beside the pooled values.

    The intervals hold for other people and the same photos.
    """
    rows = {}
    for method, part in table.groupby("method"):
        pooled = part["participant"] == "pooled"
        for name in ("d_prime", "criterion"):
            each = part.loc[~pooled, name]
            half = stats.t.ppf((1 + level) / 2, len(each) - 1) * each.sem()
            rows[method, name] = {
                "people": len(each),
                "mean": each.mean(),
                "low": each.mean() - half,
                "high": each.mean() + half,
                "pooled": part.loc[pooled, name].item(),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "measure"])


def forced_choice(answers, level=LEVEL) -> pd.DataFrame:
    """For pairs: how often the colored photo was taken for the original, and d'.

    Columns: answers, people, photos, fooled, low, high (over people and photos; 0.5 is guessing),
    d_prime, d_low, d_high (the same interval as d').
    """
    given, rows = _given(answers, "correct"), {}
    for method, part in given.groupby("method"):
        found = rate(1 - part["correct"], part["participant"], part["scene"], level)
        d, d_high, d_low = d_prime_2afc(1 - np.array([found.value, found.low, found.high]))
        rows[method] = {
            **_sizes(part),
            "fooled": found.value,
            "low": found.low,
            "high": found.high,
            "d_prime": d,
            "d_low": d_low,
            "d_high": d_high,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def krippendorff_alpha(ratings) -> float:
    """How far raters agree beyond chance on nominal values (Krippendorff 2011); 1 is perfect.

    Args:
        ratings: DataFrame or array (raters, things), NaN where somebody did not answer. Things
            with fewer than two answers are left out.

    Returns:
        alpha; NaN if all answers are the same.
    """
    ratings = np.asarray(ratings, float)
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(axis=0)  # (things, values)
    counts = counts[counts.sum(axis=1) > 1]
    answers = counts.sum(axis=1, keepdims=True)
    coincidences = (counts.T @ (counts / (answers - 1))) - np.diag(
        (counts / (answers - 1)).sum(axis=0)
    )
    total = coincidences.sum(axis=0)
    expected = total.sum() ** 2 - (total**2).sum()
    if not expected:
        return float("nan")
    observed = coincidences.sum() - np.trace(coincidences)
    return float(1 - (total.sum() - 1) * observed / expected)


def agreement(answers) -> pd.DataFrame:
    """Krippendorff's alpha of the answers about all photos, the originals, and each method's."""
    given = _given(answers)
    parts = {"all": given} | dict(list(given.groupby("method")))
    rows = {}
    for name, part in parts.items():
        ratings = part.pivot_table(index="participant", columns="stimulus", values="said_real")
        rows[name] = {
            "people": ratings.shape[0],
            "photos": ratings.shape[1],
            "alpha": krippendorff_alpha(ratings.round()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("photos shown")


# The mixed model


class MixedModel(NamedTuple):
    """A fitted mixed logistic model: `fixed` (a row for each effect), SDs on the logit, its state.

    `singular` is true if an SD is estimated as 0: the study is too small to show it.
    """

    fixed: pd.DataFrame
    people_sd: float
    photos_sd: float
    log_likelihood: float
    converged: bool
    singular: bool


def mixed_model(answers, level=LEVEL) -> MixedModel:
    """`said_real ~ method + (1|participant) + (1|stimulus)`: crossed effects of people and photos.

    Fitted by maximum likelihood with Laplace's approximation, as R's lme4 does it. Effects are
    log odds for a typical person and photo, so they are larger than the same effects in rates over
    all people. The originals are the reference. Standard errors treat the two SDs as known, like
    lme4's `vcov(fit, use.hessian = FALSE)`; those in R's summary are a few percent larger in small
    studies. Of 100 simulated studies each, the effect's interval held the truth in 96, 92 and
    94 with equal halves at 41 x 12, 60 x 24 and 200 x 54 people and photos, in 95 with 9 + 3
    photos, and in 98 to 99 with lists: there two versions of a scene are alike, and the model takes
    them for different photos (`python tests/benchmarks/study_coverage.py --studies 0`).

    Returns:
        A `MixedModel`; `fixed` has the columns estimate, error, z, p, low, high, odds_ratio.
    """
    import mixedlm

    given = _given(answers)
    levels = [ORIGINAL] * (ORIGINAL in set(given["method"])) + methods(given)
    data = pd.DataFrame(
        {
            "said_real": given["said_real"].to_numpy(float),
            "participant": given["participant"].to_numpy(str),
            "stimulus": given["stimulus"].to_numpy(str),
        }
    )
    # Columns of our own rather than a category: the library would number the levels.
    dummies = [f"method_{number}" for number in range(1, len(levels))]
    for name, method in zip(dummies, levels[1:], strict=True):
        data[name] = (given["method"] == method).to_numpy(float)
    formula = " + ".join(["said_real ~ 1", *dummies, "(1 | participant)", "(1 | stimulus)"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model is singular", UserWarning)  # told in the result
        fit = mixedlm.glmer(formula, data, family=mixedlm.families.Binomial())
    estimate, error = np.array(list(fit.fixef().values())), np.sqrt(np.diag(fit.vcov()))
    z = stats.norm.ppf((1 + level) / 2)
    fixed = pd.DataFrame(
        {
            "estimate": estimate,
            "error": error,
            "z": estimate / error,
            "p": 2 * stats.norm.sf(np.abs(estimate / error)),
            "low": estimate - z * error,
            "high": estimate + z * error,
            "odds_ratio": np.exp(estimate),
        },
        index=pd.Index(levels, name="method"),
    )
    people_sd, photos_sd = np.abs(fit.theta)
    return MixedModel(
        fixed,
        float(people_sd),
        float(photos_sd),
        fit.logLik().value,
        fit.converged,
        fit.isSingular(),
    )


# A ranking of photos


def rank_photos(counts, seed=1, draws=4000, level=LEVEL) -> pd.DataFrame:
    """Photos by how often they are called real, shrunk toward their mean where answers are few.

    Empirical Bayes: the true rates of the photos are assumed to follow a beta distribution, fitted
    to all counts by maximum likelihood (beta-binomial; Robbins 1956, Efron and Morris 1975). An
    extreme rate from a few answers moves toward the mean, and each rank has an interval.

    Args:
        counts: DataFrame with `answers` and `said_real`, a row for each photo, of one kind only:
            colored photos and originals have no common mean.

    Returns:
        The rows, best first, with shrunk, shrunk_low, shrunk_high, rank, rank_low, rank_high.
    """
    k, n = counts["said_real"].to_numpy(float), counts["answers"].to_numpy(float)
    if len(k) < 3:
        raise ColorlibError(f"rank_photos: needs three photos or more. Received: {len(k)}")
    alpha, beta = _beta_of(k, n)
    posterior = stats.beta(alpha + k, beta + n - k)
    drawn = np.random.default_rng(seed).beta(alpha + k, beta + n - k, (draws, len(k)))
    ranks = stats.rankdata(-drawn, axis=1)
    tails = [(1 - level) / 2, (1 + level) / 2]
    rank_low, rank_high = np.quantile(ranks, tails, axis=0, method="nearest")
    table = counts.assign(
        shrunk=posterior.mean(),
        shrunk_low=posterior.ppf(tails[0]),
        shrunk_high=posterior.ppf(tails[1]),
        rank_low=rank_low.astype(int),
        rank_high=rank_high.astype(int),
    ).sort_values("shrunk", ascending=False, kind="stable", ignore_index=True)
    return table.assign(rank=np.arange(1, len(table) + 1))


def _beta_of(k, n):
    """The beta distribution under which these counts are most likely: alpha, beta."""

    def parameters(x):
        mean, strength = special.expit(x[0]), np.exp(x[1])
        return mean * strength, (1 - mean) * strength

    def loss(x):
        alpha, beta = parameters(x)
        return -(special.betaln(alpha + k, beta + n - k) - special.betaln(alpha, beta)).sum()

    start = [special.logit(np.clip(k.sum() / n.sum(), 0.01, 0.99)), np.log(10)]
    # Photos that differ no more than chance would need an infinite strength; 10,000 is one.
    bounds = [(-7, 7), (np.log(0.1), np.log(1e4))]
    return parameters(optimize.minimize(loss, start, bounds=bounds, method="L-BFGS-B").x)
