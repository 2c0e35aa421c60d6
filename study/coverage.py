"""How often the intervals of the analysis hold the truth, in simulated studies of known truth.

An interval of 95 % must hold the truth in 95 of 100 studies, and miss it on either side about
equally often. Every table here gives both misses: `below` is the share of studies whose whole
interval lies above the truth (the truth is below it), `above` the other one.
`python tests/benchmarks/study_coverage.py` runs these functions on many studies.
"""

import numpy as np
import pandas as pd
from scipy import special

from study import intervals
from study.mixed import mixed_model
from study.ranking import rank_photos
from study.simulation import ORIGINAL, Population, draw

# Ideas of the degrees of freedom of a difference; `difference` has the second.
RULES = {
    "min - 1": lambda found, sizes: min(sizes) - 1,
    "Welch": lambda found, sizes: found.df,
    "smaller set - 1": lambda found, sizes: found.clusters - 1,
}


def coverage(people, photos, colored=None, studies=200, seed=1, population=None) -> pd.DataFrame:
    """How often 95 % intervals contain the truth in simulated studies with crossed effects.

    Args:
        people, photos, colored: the design, as `simulation.draw` takes it.
        studies: how many are simulated.
        seed: int.
        population: a `Population` of one method.

    Returns:
        A row for each interval: interval, people, photos, design (`6+6`: colored and originals, or
        `lists`), studies, coverage, below, above, width (the mean one), uncertainty (half the 95 %
        interval of the coverage itself). "naive" takes answers for independent (Wilson). A
        difference has a row for each idea of its degrees of freedom; "Welch" is what
        `intervals.difference` uses.
    """
    population = population or Population()
    (accepted,) = population.accepted.values()
    gap = accepted - population.original
    rng, found = np.random.default_rng(seed), {}
    for _ in range(studies):
        person, photo, group, said = draw(rng, population, people, photos, colored)
        mine = group == 1
        bounds = {
            "one rate, naive": (*intervals.wilson(said[mine].sum(), mine.sum()), accepted),
            "one rate, people and photos": (
                *intervals.rate(said[mine], person[mine], photo[mine])[1:3],
                accepted,
            ),
        }
        # With nothing but colored photos there is no difference to measure.
        if not mine.all():
            parts = intervals.two_ways(said, person, photo, mine)
            for name, rule in RULES.items():
                free = max(rule(parts[0], (people, photos)), 1)
                limits = intervals.difference_limits(*parts, df=free)
                bounds[f"difference, {name}"] = (*limits, gap)
        for name, one in bounds.items():
            found.setdefault(name, []).append(one)
    design = _design(people, photos, colored)
    return pd.DataFrame([{"interval": name} | design | _held(rows) for name, rows in found.items()])


def _design(people, photos, colored):
    design = "lists" if colored is None else f"{colored}+{photos - colored}"
    return {"people": people, "photos": photos, "design": design}


def _held(rows):
    """Coverage, misses and mean width of rows (low, high, truth), one for each interval."""
    low, high, truth = np.array(rows, float).T
    below, above = np.mean(truth < low), np.mean(truth > high)
    share = 1 - below - above
    row = {"studies": len(low), "coverage": share, "below": below, "above": above}
    spread = 1.96 * np.sqrt(share * (1 - share) / len(low))
    return row | {"width": np.mean(high - low), "uncertainty": spread}


def mixed_coverage(
    people, photos, colored=None, studies=100, seed=1, population=None, slopes=True
) -> pd.DataFrame:
    """The same for the mixed model: coverage of the method's log odds, and the SDs that it finds.

    Args:
        slopes: bool. Whether the model has slopes of the method, as `mixed_model` takes it.

    Returns:
        A DataFrame of one row as `coverage` has them, with the medians of people_sd, scenes_sd and
        stimuli_sd, and fallbacks (fits that had to leave out the slopes or their correlations).
    """
    population = population or Population()
    first, second = population.logits()
    names = np.array([ORIGINAL, *population.accepted], dtype=object)
    rng, rows, fits = np.random.default_rng(seed), [], []
    for _ in range(studies):
        person, photo, group, said = draw(rng, population, people, photos, colored)
        table = {"participant": person, "scene": photo, "stimulus": 2 * photo + group}
        table |= {"method": names[group], "said_real": said.astype(float)}
        fit = mixed_model(pd.DataFrame(table), slopes=slopes)
        rows.append((*fit.fixed.iloc[1][["low", "high"]], second - first))
        fits.append((*map(fit.sd, ("people", "scenes", "stimuli")), "converge" in fit.told))
    fits = np.array(fits, float)
    kind = "mixed model, log odds" + (", slopes" if slopes else "")
    row = {"interval": kind, **_design(people, photos, colored), **_held(rows)}
    medians = np.median(fits[:, :3], axis=0)
    row |= dict(zip(("people_sd", "scenes_sd", "stimuli_sd"), medians, strict=True))
    return pd.DataFrame([row | {"fallbacks": int(fits[:, 3].sum())}])


def rank_coverage(photos, answers, studies=200, seed=1, population=None) -> pd.DataFrame:
    """The same for the shares and ranks of single photos, with few answers for each.

    Args:
        photos: how many, all colored.
        answers: how many for each photo.

    Returns:
        A DataFrame of four rows as `coverage` has them, over studies and photos: the shrunk share
        and the rank where everybody judges all photos (people differ by the population's SD, and
        `rank_photos` knows it), and both where each answer is another person's.
    """
    population = population or Population()
    rng, found = np.random.default_rng(seed), {}
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    for _ in range(studies):
        appeal = rng.normal(population.logits()[1], population.photos_sd, photos)
        leaning = population.people_sd * nodes
        truth = special.expit(appeal[:, None] + leaning) @ weights / weights.sum()
        rank = (truth[:, None] < truth).sum(axis=1) + 1
        person = rng.normal(0, population.people_sd, answers)
        same = (rng.random((photos, answers)) < special.expit(appeal[:, None] + person)).sum(axis=1)
        kinds = {
            "same people": (same, population.people_sd),
            "other people": (rng.binomial(answers, truth), 0.0),
        }
        for kind, (real, people_sd) in kinds.items():
            counts = pd.DataFrame({"answers": answers, "said_real": real, "photo": range(photos)})
            table = rank_photos(counts, people_sd, seed=seed, draws=400).set_index("photo")
            for what, true in (("shrunk", truth), ("rank", rank)):
                bounds = table.loc[range(photos), [f"{what}_low", f"{what}_high"]].to_numpy()
                found.setdefault(f"{what}, {kind}", []).extend(np.column_stack([bounds, true]))
    design = {"people": answers, "photos": photos, "design": "ranks"}
    rows = []
    for name, bounds in found.items():
        row = {"interval": name} | design | _held(bounds) | {"studies": studies}
        # Photos of one study have their mean in common: their share of a study is the unit.
        held = [(low <= true <= high) for low, high, true in bounds]
        shares = np.reshape(held, (studies, photos)).mean(axis=1)
        rows.append(row | {"uncertainty": 1.96 * shares.std() / np.sqrt(studies)})
    return pd.DataFrame(rows)
