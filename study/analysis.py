"""The analysis of a study: tables of its answers, with intervals that hold for others.

Answers are a table with a row for each answer: `participant`, `scene` (the photo, in any version),
`stimulus` (the file that was shown), `method` (`original`, or what colored it) and `said_real` or,
where two photos were compared, `correct`. These are 1, 0, or NaN for a missing answer, which is
left out and never counted as either.

Answers of one person resemble each other, and so do answers about one photo. Single answers are
therefore never treated as independent: such intervals are far too narrow, as `study.coverage`
shows.

Wrong values raise a `ColorlibError` of one line.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from colorlib import ColorlibError
from study.answers import (  # noqa: F401  a study is read and analyzed through one module
    ORIGINAL,
    Study,
    exclusion_table,
    flag_exclusions,
    read_export,
)
from study.intervals import (  # noqa: F401
    LEVEL,
    d_prime,
    d_prime_2afc,
    d_prime_interval,
    difference,
    holm,
    rate,
    two_way,
    wilson,
)
from study.mixed import mixed_model  # noqa: F401
from study.ranking import rank_photos  # noqa: F401

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
    d_prime, d_low, d_high (the same interval as d'). d' has the log-linear correction of
    `d_prime_2afc`, so that it is finite where nobody was fooled.
    """
    given, rows = _given(answers, "correct"), {}
    for method, part in given.groupby("method"):
        found = rate(1 - part["correct"], part["participant"], part["scene"], level)
        right = len(part) * (1 - np.array([found.value, found.low, found.high]))
        d, d_high, d_low = d_prime_2afc(right, len(part))
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


# Who took part

NARROW = 600  # CSS px; the shorter side of a browser's window on a phone is below, else above
NO_REPLY = "rather not say"  # reached the end without a reply; consent not given counts as such
NOT_ASKED = "not asked"  # stopped before the questions


def sample(study) -> pd.DataFrame:
    """Who took part: the size of their window, and the replies to each optional question.

    `rather not say` are people who reached the end and gave no reply: they chose "I'd rather not
    say", left the question open, or did not agree to be asked (about color vision). `not asked` are
    those who stopped before. The two are kept apart, and neither is taken for a reply.

    Returns:
        A row for each question and reply: people (all), counted (whom no rule excludes), share (of
        the counted).
    """
    people, counted = study.participants, study.counted()
    silent = people["complete"].astype(bool).map({True: NO_REPLY, False: NOT_ASKED})
    columns = {"device": _devices(study).reindex(people["session"]).fillna("not known").to_numpy()}
    for name in people:
        if name.startswith("question_"):
            question = name.removeprefix("question_").replace("_", " ")
            columns[question] = people[name].astype(object).where(people[name].notna(), silent)
    rows = []
    for question, replies in columns.items():
        replies = pd.Series(np.asarray(replies), index=people.index)
        last = [reply for reply in (NO_REPLY, NOT_ASKED) if reply in set(replies)]
        order = sorted(set(replies) - set(last)) + last
        for reply in order:
            given = replies == reply
            rows.append((question, reply, int(given.sum()), int((given & counted).sum())))
    table = pd.DataFrame(rows, columns=["question", "reply", "people", "counted"])
    table["share"] = table["counted"] / max(counted.sum(), 1)
    return table.set_index(["question", "reply"])


def _devices(study) -> pd.Series:
    """What each session was answered on, by the median of the window's shorter side."""
    sides = [name for name in ("viewport_width", "viewport_height") if name in study.trials]
    if not sides:
        return pd.Series(dtype=object)
    trials = study.trials.dropna(subset=sides)
    shorter = trials[sides].astype(float).min(axis=1).groupby(trials["session"]).median()
    return (shorter < NARROW).map({True: "window of a phone", False: "larger window"})


def without_known(study, level=LEVEL) -> pd.DataFrame:
    """The study's result once more without people who may have known photos from before.

    By the reply to the question `known`: everybody; without those who replied `some`; only those
    who replied `none`. If the rows differ by more than their intervals, memory is part of the
    result.

    Returns:
        A row for each of the three and method: people, value (the difference from the originals;
        for pairs how often the colored photo was taken for the original), low, high; empty where
        too few people are left for an interval.

    Raises:
        ColorlibError: the protocol has no question `known`.
    """
    if "question_known" not in study.participants:
        raise ColorlibError("without_known: the protocol of this study has no question `known`")
    known = study.participants["question_known"]
    kept = {
        "everybody": pd.Series(True, known.index),
        "without who knew some": ~known.eq("some").astype(bool),
        "only who knew none": known.eq("none").astype(bool),
    }
    rows = {}
    for who, some in kept.items():
        part = replace(study, participants=study.participants[some])
        answers = part.answers()
        people = answers["participant"].nunique()
        for method in methods(study.answers()):
            rows[who, method] = {"people": people}
            try:
                rows[who, method] |= _result(answers, method, study.mode, level)
            except (ColorlibError, KeyError):  # too few people or photos; no answers on the method
                continue
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["people who count", "method"])
    return table.reindex(columns=["people", "value", "low", "high"])


def _result(answers, method, mode, level):
    table = forced_choice if mode == "2afc" else differences
    row = table(answers, level).loc[method]
    value = row["fooled" if mode == "2afc" else "difference"]
    return {"value": value, "low": row["low"], "high": row["high"]}
