"""What the answers of a study say, with intervals that hold for other people and other photos.

Answers are a table with a row for each answer: `participant`, `scene` (the photo, in whatever
version), `stimulus` (the file that was shown), `method` (`original`, or what colored it) and
`said_real` or, where two photos were compared, `correct`: 1, 0, or NaN for a missing answer, which
is left out and never counted as either.

Answers of one person are alike, and so are answers about one photo. Intervals of rates therefore
take both as drawn at random (`rate`, `difference`, `mixed_model`), and never the single answers as
independent: such an interval is far too narrow, as `study.simulation.coverage` shows.

Wrong values raise a `ColorlibError` of one line.
"""

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from colorlib import ColorlibError

ORIGINAL = "original"
DATA = Path(__file__).parent / "data"
LEVEL = 0.95  # of every interval, unless told otherwise


# Single rates, and how well the two kinds are told apart


def wilson(successes, answers, level=LEVEL):
    """The score interval of a rate from independent answers (Wilson 1927): one photo's, say.

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
    where that one dominates. The smaller way counts.

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

    Where all answers are the same there is no spread to go by; the interval is then Wilson's, with
    the number of people or of photos, whichever is smaller, in place of the answers.
    """
    found = two_way(said, people, photos)
    estimate = _interval(found, level, (0, 1))
    if not found.variance:
        low, high = wilson(found.value * found.clusters, found.clusters, level)
        estimate = estimate._replace(low=float(low), high=float(high))
    return estimate


def difference(said, people, photos, colored, level=LEVEL) -> Estimate:
    """The rate of colored photos less that of originals, with its interval (see `two_way`).

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
    """The methods in a table of answers, in the order of the alphabet, without `original`."""
    return sorted(set(answers["method"]) - {ORIGINAL})


def _given(answers, column="said_real"):
    given = answers[answers[column].notna()]
    if given.empty:
        raise ColorlibError(f"{column}: the table holds no answer of this kind")
    return given


def acceptance(answers, level=LEVEL) -> pd.DataFrame:
    """How often photos are called real: a row for the originals and for each method.

    Columns: answers, people, photos, share, low, high, df, and `naive_low` and `naive_high`, the
    interval that takes every answer for independent, to be shown and not to be used.
    """
    given, rows = _given(answers), {}
    for method in [ORIGINAL] * (ORIGINAL in set(given["method"])) + methods(given):
        part = given[given["method"] == method]
        found = rate(part["said_real"], part["participant"], part["scene"], level)
        naive = wilson(part["said_real"].sum(), len(part), level)
        rows[method] = {
            "answers": len(part),
            "people": part["participant"].nunique(),
            "photos": part["scene"].nunique(),
            "share": found.value,
            "low": found.low,
            "high": found.high,
            "df": found.df,
            "naive_low": float(naive[0]),
            "naive_high": float(naive[1]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def differences(answers, level=LEVEL) -> pd.DataFrame:
    """Each method's acceptance less that of the originals, with Holm's p-values over the methods.

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
    """What each stimulus was taken for, with Wilson intervals: answers about one photo only.

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

    The intervals hold for other people and these very photos.
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
    """Of pairs: how often the colored photo was taken for the original, and d'.

    Columns: answers, people, photos, fooled, low, high (over people and photos; 0.5 is guessing),
    d_prime, d_low, d_high (the same interval as d').
    """
    given, rows = _given(answers, "correct"), {}
    for method, part in given.groupby("method"):
        found = rate(1 - part["correct"], part["participant"], part["scene"], level)
        d, d_high, d_low = d_prime_2afc(1 - np.array([found.value, found.low, found.high]))
        rows[method] = {
            "answers": len(part),
            "people": part["participant"].nunique(),
            "photos": part["scene"].nunique(),
            "fooled": found.value,
            "low": found.low,
            "high": found.high,
            "d_prime": d,
            "d_low": d_low,
            "d_high": d_high,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def krippendorff_alpha(ratings) -> float:
    """How far raters agree beyond chance on nominal values (Krippendorff 2011): 1 is always.

    Args:
        ratings: DataFrame or array (raters, things), NaN where somebody did not answer. Things
            with fewer than two answers say nothing and are left out.

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
    """A mixed logistic model: `fixed` (a row for each effect), SDs on the logit, how it went.

    `singular` is true where an SD comes out as 0: the study is too small to see it.
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
    all people. The originals are the reference. Standard errors take the two SDs as known, as
    lme4's `vcov(fit, use.hessian = FALSE)` does; those of R's summary are some per cent larger in
    small studies.

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
    """Photos by how often they are called real, shrunk to their common mean as far as they are few.

    Empirical Bayes: the true rates of the photos are taken to follow a beta distribution, fitted
    to all counts by maximum likelihood (beta-binomial; Robbins 1956, Efron and Morris 1975). An
    extreme rate from a few answers is drawn to the mean, and the rank has an interval.

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
    """The beta distribution that makes these counts likeliest: alpha, beta."""

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


# Studies


@dataclass(frozen=True)
class Study:
    """The rows of a study, and what they are.

    Attributes:
        trials, participants, images: the three tables of an export (see study/README.md).
        source: what kind of data it is, for the title of every table and figure.
        mode: `yesno` or `2afc`.
    """

    trials: pd.DataFrame
    participants: pd.DataFrame
    images: pd.DataFrame
    source: str
    mode: str

    def answers(self) -> pd.DataFrame:
        """The answers that count: main trials without any flag of exclusion, of people without."""
        people = self.participants
        kept = people.loc[~_flagged(people), ["participant", "session"]]
        rows = self.trials[(self.trials["kind"] == "main") & ~_flagged(self.trials)]
        rows = rows.merge(kept, on=["participant", "session"])
        columns = ["participant", "scene", "stimulus", "method", "said_real", "correct"]
        return rows[columns].assign(method=rows["method"].fillna(ORIGINAL))


def _flagged(table):
    flags = [name for name in table if name.startswith("excluded_")]
    return table[flags].fillna(0).astype(bool).any(axis=1)


def flag_exclusions(study: Study, protocol) -> Study:
    """A study with the flags of the protocol's preregistered exclusions; no row is changed or lost.

    Args:
        protocol: a `study.protocol.Protocol`; its `exclusions` has the rules.
    """
    rules, trials, people = protocol.exclusions, study.trials, study.participants
    main, catch = (trials[trials["kind"] == kind] for kind in ("main", "catch"))
    key = pd.MultiIndex.from_frame(people[["participant", "session"]])

    def by_person(rows, column, how):
        found = rows.dropna(subset=column).groupby(["participant", "session"])[column].agg(how)
        return found.reindex(key).astype(float).to_numpy()

    most = by_person(main, "answer", lambda said: said.value_counts(normalize=True).max())
    people = people.assign(
        excluded_incomplete=rules.incomplete & ~people["complete"].astype(bool),
        excluded_repeat=rules.repeats & people["repeat"].astype(bool),
        excluded_catch=np.nan_to_num(by_person(catch, "correct", "sum")) < rules.min_catch_correct,
        excluded_fast=by_person(main, "response_ms", "median") < rules.min_median_response_ms,
        excluded_same=most > rules.max_same_answer_share,
    )
    response = trials["response_ms"].astype(float)
    trials = trials.assign(
        excluded_response=(response < rules.min_response_ms) | (response > rules.max_response_ms),
        excluded_exposure=_exposure_error(trials, protocol) > rules.max_exposure_error_ms,
    )
    return replace(study, trials=trials, participants=people)


def _exposure_error(trials, protocol):
    """The larger error of the timed photos of each trial in ms; 0 where time is free."""
    columns = [name for name in ("exposure_first_ms", "exposure_second_ms") if name in trials]
    if not protocol.design.exposure_s or not columns:
        return pd.Series(0.0, trials.index)
    error = (trials[columns].astype(float) - 1000 * protocol.design.exposure_s).abs()
    return error.max(axis=1).fillna(0)


def exclusion_table(study: Study) -> pd.DataFrame:
    """What each rule flags: how many people or answers; then `any` rule, and `of` how many."""
    main = study.trials[study.trials["kind"] == "main"]
    columns = {}
    for what, rows in (("people", study.participants), ("answers", main)):
        flags = [name for name in rows if name.startswith("excluded_")]
        counts = {name.removeprefix("excluded_"): rows[name].fillna(0).sum() for name in flags}
        columns[what] = pd.Series(counts | {"any": _flagged(rows).sum(), "of": len(rows)})
    rules = [rule for counts in columns.values() for rule in counts.index[:-2]]
    return pd.DataFrame(columns).astype("Int64").loc[[*rules, "any", "of"]].rename_axis("rule")


# The export of the survey

NAME = "study-koala_table-{}_data.csv"
COLUMNS = {
    "trials": (
        *("participant", "session", "trial", "kind", "mode", "stimulus", "second_stimulus"),
        *("scene", "version", "method", "answer", "correct", "said_real", "response_ms"),
    ),
    "participants": ("participant", "session", "repeat", "complete"),
    "images": ("stimulus", "scene", "version", "method"),
}
LEVELS = {
    "kind": {"practice", "main", "catch"},
    "mode": {"yesno", "2afc"},
    "version": {"original", "colored", "catch"},
    "answer": {"real", "fake", "first", "second"},
}
TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}
NUMBERS = ("response_ms", "exposure_first_ms", "exposure_second_ms")


def read_export(folder) -> Study:
    """Reads and checks the folder that `python -m study export` writes.

    Raises:
        ColorlibError: a file or column is missing, a value is not one of its levels, a person
            answered a trial twice, or tables contradict each other; the line says where.
    """
    folder = Path(folder)
    description = _description(folder / "dataset_description.json")
    tables = {name: _read_table(folder / "data" / NAME.format(name), name) for name in COLUMNS}
    trials, participants, images = tables.values()
    _check_agreement(folder / "data" / NAME.format("trials"), trials, participants, images)
    modes = sorted(set(trials["mode"]))
    if len(modes) != 1:
        raise ColorlibError(f"{folder}: must hold answers of one mode. Received: {modes or 'none'}")
    # The export of `serve --demo` says so in its description.
    kind = "demonstration" if "demonstration" in str(description.get("description")) else "survey"
    source = f"export of the {kind}: {description.get('name', folder.name)}"
    return Study(trials, participants, images, source, modes[0])


def _description(path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ColorlibError(
            f"{path}: not there; give the folder that `python -m study export` has written"
        ) from None
    except ValueError as error:
        raise ColorlibError(f"{path}: not JSON ({error}); export it again") from None
    if not isinstance(content, dict):
        raise ColorlibError(f"{path}: must hold an object; export it again")
    return content


def _read_table(path, name):
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except OSError:
        raise ColorlibError(f"{path}: not there; export the study again") from None
    except ValueError as error:  # pandas' parser errors, and text that is not UTF-8
        raise ColorlibError(
            f"{path}: not a table ({str(error).strip()}); export it again"
        ) from None
    for column in COLUMNS[name]:
        if column not in table:
            raise ColorlibError(f"{path.name}: has no column {column!r}; export the study again")
    for column, levels in LEVELS.items():
        if column in table:
            _check_levels(path, table[column], levels)
    for column in table:
        if column in ("correct", "said_real", "repeat", "complete") or column.startswith("excl"):
            _check_levels(path, table[column].str.lower(), set(TRUTH))
            table[column] = table[column].str.lower().map(TRUTH)
        elif column in NUMBERS:
            table[column] = _numbers(path, table[column])
    return table


def _check_levels(path, column, levels):
    wrong = column.notna() & ~column.isin(levels)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ColorlibError(
            f"{path.name}, row {row + 2}, {column.name}: must be one of "
            f"{', '.join(sorted(levels))}, or empty. Received: {column.iloc[row]!r}"
        )


def _numbers(path, column):
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = column.notna() & numbers.isna()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ColorlibError(
            f"{path.name}, row {row + 2}, {column.name}: must be a number, or empty. "
            f"Received: {column.iloc[row]!r}"
        )
    return numbers


def _check_agreement(path, trials, participants, images):
    def complain(row, column, problem):
        value = trials[column].iloc[row]
        raise ColorlibError(f"{path.name}, row {row + 2}, {column}: {problem}. Received: {value!r}")

    def first(wrong):
        return int(np.flatnonzero(wrong)[0]) if np.any(wrong) else None

    row = first(trials.duplicated(["participant", "session", "trial"]))
    if row is not None:
        complain(row, "trial", "this trial of this session stands in an earlier row too")
    for column in ("stimulus", "second_stimulus"):
        row = first(trials[column].notna() & ~trials[column].isin(images["stimulus"]))
        if row is not None:
            complain(row, column, "is not in the table of images")
    row = first(~trials["participant"].isin(participants["participant"]))
    if row is not None:
        complain(row, "participant", "is not in the table of participants")
    single = trials["mode"] == "yesno"
    known = images.drop_duplicates("stimulus").set_index("stimulus")
    for column in ("scene", "version", "method"):
        truth = trials["stimulus"].map(known[column])
        row = first(single & (truth.fillna("") != trials[column].fillna("")))
        if row is not None:
            complain(row, column, "contradicts the table of images")
    told = trials["answer"].map({"real": 1.0, "fake": 0.0})
    row = first(
        single & ~((told == trials["said_real"]) | (told.isna() & trials["said_real"].isna()))
    )
    if row is not None:
        complain(row, "said_real", "contradicts the answer")


# What has been published


PERCENT_2017 = "published percentages of 2017, as quoted in 2022"
COUNTS_2022 = "published counts of the replication of 2022"
PUBLISHED = "published numbers of 2017 and 2022"


def published() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The percentages of 2017 and the counts of the replication of 2022 (study/data/README.md).

    Returns:
        percent (rank, percent_said_real; nine colored photos), and counts (stimulus, scene, method,
        answers, said_real; nine colored photos and three originals).
    """
    percent = pd.read_csv(DATA / "per_image_percent_baldassarre_2017_as_quoted.csv")
    counts = pd.read_csv(DATA / "per_image_counts_casper_smet_2022.csv", dtype={"image_id": str})
    method = counts["truth"].map({"original": ORIGINAL, "recolored": "colored"})
    counts = pd.DataFrame(
        {
            "stimulus": counts["image_id"],
            "scene": counts["image_id"],
            "method": method,
            "answers": counts["n_answered"],
            "said_real": counts["n_said_real"],
        }
    )
    return percent, counts


def published_acceptance(level=LEVEL) -> pd.DataFrame:
    """Acceptance in per cent as far as numbers per photo can tell it.

    The interval over photos is Student's for their mean: it holds for other photos and the same
    people, so it is too narrow by what people add, which nobody published. `naive` takes all
    answers for independent (Wilson); the percentages of 2017 come without counts.

    Returns:
        A row for each set of photos: photos, answers, mean, sd (over photos), low, high,
        naive_low, naive_high.
    """
    percent, counts = published()
    is_original = counts["method"] == ORIGINAL
    sets = {"2017, colored": None, "2022, colored": ~is_original, "2022, originals": is_original}
    rows = {}
    for name, chosen in sets.items():
        part = None if chosen is None else counts[chosen]
        share = (
            percent["percent_said_real"]
            if part is None
            else 100 * part["said_real"] / part["answers"]
        )
        half = stats.t.ppf((1 + level) / 2, len(share) - 1) * share.sem()
        naive = (np.nan, np.nan)
        if part is not None:
            naive = wilson(part["said_real"].sum(), part["answers"].sum(), level)
        rows[name] = {
            "photos": len(share),
            "answers": None if part is None else int(part["answers"].sum()),
            "mean": share.mean(),
            "sd": share.std(),
            "low": max(share.mean() - half, 0),
            "high": min(share.mean() + half, 100),
            "naive_low": 100 * float(naive[0]),
            "naive_high": 100 * float(naive[1]),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("photos of")
    return table.astype({"answers": "Int64"})


def published_comparison(level=LEVEL) -> pd.DataFrame:
    """The two studies compared by t-tests that differ in what they take for the unit.

    The replication reports p = 0.493 of scipy's `ttest_ind_from_stats`, and not its n. The SDs are
    SDs over photos, nine in each study, so the test needs n = 9. Only the numbers of *people*, 41
    and 60, come near the reported p: as if each person had given one answer with the spread of the
    photos. Means and SDs are the published ones, where the missing answer about photo 4406 counts
    as "fake" (31 of 60).

    Returns:
        A row for each unit: n_2017, n_2022, difference (in points, 2022 less 2017), low, high, p.
    """
    percent, counts = published()
    first = percent["percent_said_real"]
    second = 100 * counts.loc[counts["method"] != ORIGINAL, "said_real"] / 60
    units = {"photos": (9, 9), "people, with the SDs of photos": (41, 60)}
    rows = {}
    for unit, n in units.items():
        summary = (second.mean(), second.std(), n[1], first.mean(), first.std(), n[0])
        t, p = stats.ttest_ind_from_stats(*summary)
        gap = second.mean() - first.mean()
        half = abs(gap / t) * stats.t.ppf((1 + level) / 2, sum(n) - 2)
        row = {"n_2017": n[0], "n_2022": n[1], "difference": gap, "low": gap - half}
        rows[unit] = row | {"high": gap + half, "p": p}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("unit")


def published_gap(level=LEVEL) -> Estimate:
    """The replication's colored photos less its originals, in rates, by Welch's t-test over photos.

    Photos only (see `published_acceptance`): what there is to know of nine photos against three.
    """
    _, counts = published()
    share, colored = counts["said_real"] / counts["answers"], counts["method"] != ORIGINAL
    test = stats.ttest_ind(share[colored], share[~colored], equal_var=False)
    low, high = test.confidence_interval(level)
    gap = share[colored].mean() - share[~colored].mean()
    return Estimate(gap, low, high, abs(gap / test.statistic), test.df, test.pvalue)
