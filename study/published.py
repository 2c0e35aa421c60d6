"""What other studies have published about this network, and what it shows.

study/data/README.md gives the sources. There are only numbers for each photo: without the answers
of individual people, no interval over people *and* photos can be computed.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from study import intervals
from study.answers import ORIGINAL

DATA = Path(__file__).parent / "data"
PERCENT_2017 = "published percentages of 2017, as quoted in 2022"
COUNTS_2022 = "published counts of the replication of 2022"
BOTH = "published numbers of 2017 and 2022"


def load() -> tuple[pd.DataFrame, pd.DataFrame]:
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


def acceptance(level=intervals.LEVEL) -> pd.DataFrame:
    """Acceptance in percent, as far as numbers per photo show it.

    The interval over photos is Student's for their mean. It holds for other photos and the same
    people, so it is too narrow by the contribution of people, which nobody published. `naive`
    treats all answers as independent (Wilson); the percentages from 2017 come without counts.

    Returns:
        A row for each set of photos: photos, answers, mean, sd (over photos), low, high,
        naive_low, naive_high.
    """
    percent, counts = load()
    originals = counts["method"] == ORIGINAL
    rows = {"2017, colored": _over_photos(percent["percent_said_real"], level)}
    for name, part in {"colored": counts[~originals], "originals": counts[originals]}.items():
        asked, said = part["answers"].sum(), part["said_real"].sum()
        low, high = 100 * np.array(intervals.wilson(said, asked, level))
        row = {"answers": asked} | _over_photos(100 * part["said_real"] / part["answers"], level)
        rows[f"2022, {name}"] = row | {"naive_low": low, "naive_high": high}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("photos of")
    columns = ["photos", "answers", "mean", "sd", "low", "high", "naive_low", "naive_high"]
    return table[columns].astype({"answers": "Int64"})


def _over_photos(percent, level):
    half = stats.t.ppf((1 + level) / 2, len(percent) - 1) * percent.sem()
    low, high = np.clip([percent.mean() - half, percent.mean() + half], 0, 100)
    row = {"photos": len(percent), "mean": percent.mean(), "sd": percent.std()}
    return row | {"low": low, "high": high}


def comparison(level=intervals.LEVEL) -> pd.DataFrame:
    """The two studies compared by t-tests with different units.

    The replication reports p = 0.493 of scipy's `ttest_ind_from_stats`, and not its n. The SDs are
    SDs over photos, nine in each study, so the test needs n = 9. Only the numbers of *people*, 41
    and 60, come near the reported p: as if each person had given one answer with the spread of the
    photos. Means and SDs are the published ones, where the missing answer about photo 4406 counts
    as "fake" (31 of 60).

    Returns:
        A row for each unit: n_2017, n_2022, difference (in points, 2022 less 2017), low, high, p.
    """
    percent, counts = load()
    first = percent["percent_said_real"]
    second = 100 * counts.loc[counts["method"] != ORIGINAL, "said_real"] / 60
    units = {"photos": (9, 9), "people, with the SDs of photos": (41, 60)}
    rows = {}
    for unit, n in units.items():
        summary = (second.mean(), second.std(), n[1], first.mean(), first.std(), n[0])
        t, p = stats.ttest_ind_from_stats(*summary)
        points = second.mean() - first.mean()
        half = abs(points / t) * stats.t.ppf((1 + level) / 2, sum(n) - 2)
        row = {"n_2017": n[0], "n_2022": n[1], "difference": points, "low": points - half}
        rows[unit] = row | {"high": points + half, "p": p}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("unit")


def gap(level=intervals.LEVEL) -> intervals.Estimate:
    """The replication's colored photos minus its originals, in rates (Welch's t-test over photos).

    Over photos only (see `acceptance`): nine photos against three.
    """
    _, counts = load()
    share, colored = counts["said_real"] / counts["answers"], counts["method"] != ORIGINAL
    test = stats.ttest_ind(share[colored], share[~colored], equal_var=False)
    low, high = test.confidence_interval(level)
    points = share[colored].mean() - share[~colored].mean()
    return intervals.Estimate(points, low, high, abs(points / test.statistic), test.df, test.pvalue)
