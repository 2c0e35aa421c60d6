"""Simulated people, for planning a study and for checking that its intervals hold.

Nothing from here is a finding about photos or people. Every table and figure made from it has
`SOURCE` in its title, and simulated participants are named as such.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from colorlib import ColorlibError
from study import analysis
from study.analysis import ORIGINAL, Study

SOURCE = "simulated people, not a finding"


@dataclass(frozen=True)
class Population:
    """The people and photos that a simulation draws from.

    An answer is "real" with the probability logistic(m + person + photo), where m belongs to the
    method, and person and photo are normal with the SDs below. The project's intervals are tested
    with the default SDs (on the logit).

    Attributes:
        accepted: how often each method's photos are called real, over all people and photos.
        original: the same for originals.
        people_sd, photos_sd: how much people and photos differ, on the logit.
        people_agreement: correlation of a person's leaning about originals and colored photos.
        scene_agreement: correlation of two versions of one scene.
    """

    accepted: dict = field(default_factory=lambda: {"method A": 0.46})
    original: float = 0.67
    people_sd: float = 0.72
    photos_sd: float = 0.65
    people_agreement: float = 1.0
    scene_agreement: float = 0.5

    def __post_init__(self):
        for name, value in {**self.accepted, ORIGINAL: self.original}.items():
            if not 0 < value < 1:
                raise ColorlibError(
                    f"{name}: must be a rate above 0 and below 1. Received: {value}"
                )
        for name in ("people_agreement", "scene_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise ColorlibError(f"{name}: must be 0 to 1. Received: {getattr(self, name)}")
        for name in ("people_sd", "photos_sd"):
            if getattr(self, name) < 0:
                raise ColorlibError(f"{name}: must be 0 or more. Received: {getattr(self, name)}")

    def logits(self) -> np.ndarray:
        """The m of the originals and of each method that give these rates: (1 + methods,)."""
        spread = float(np.hypot(self.people_sd, self.photos_sd))
        return np.array(
            [_logit_of(rate, spread) for rate in (self.original, *self.accepted.values())]
        )


@cache
def _logit_of(rate, spread):
    """The mean logit at which logistic(mean + spread * normal) is `rate` on average."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    gap = lambda mean: weights @ special.expit(mean + spread * nodes) - rate  # noqa: E731
    return optimize.brentq(gap, -40, 40)


def draw(rng, population: Population, people: int, photos: int, colored: int | None = None):
    """The answers of one study, as arrays.

    Args:
        rng: a `numpy.random.Generator`.
        colored: how many of the photos are colored, the same for all; the others are originals.
            None is the balanced design: each person sees each scene in one version, half of them
            as originals and the others evenly by the methods.

    Returns:
        person, photo, group, said: int arrays (people * photos,); group is 0 for originals and the
        number of the method else.
    """
    groups = 1 + len(population.accepted)
    person, photo = (index.ravel() for index in np.indices((people, photos)))
    if colored is None:
        place = rng.permutation(photos)[photo] + person
        group = np.where(place % 2, 1 + place // 2 % (groups - 1), 0)
    else:
        kind = np.where(np.arange(photos) < colored, 1 + np.arange(photos) % (groups - 1), 0)
        group = kind[photo]
    leaning = _effects(rng, people, groups, population.people_sd, population.people_agreement)
    appeal = _effects(rng, photos, groups, population.photos_sd, population.scene_agreement)
    logit = population.logits()[group] + leaning[person, group] + appeal[photo, group]
    return person, photo, group, (rng.random(len(logit)) < special.expit(logit)).astype(int)


def _effects(rng, units, groups, sd, agreement):
    """Normal effects (units, groups) of this SD, correlated between groups by `agreement`."""
    shared, own = rng.standard_normal((units, 1)), rng.standard_normal((units, groups))
    return sd * (np.sqrt(agreement) * shared + np.sqrt(1 - agreement) * own)


def simulate(
    people=60, scenes=40, population=None, colored=None, mode="yesno", careless=0.0, seed=1
) -> Study:
    """A study that nobody took part in, in the form of an export.

    Args:
        people, scenes: how many.
        population: a `Population`. In mode `2afc` its `accepted` is how often the colored photo of
            a pair is taken for the original, and `original` is not used.
        colored: see `draw`.
        mode: `yesno` or `2afc`.
        careless: share of people who answer at random and at once, for the exclusions to find.
        seed: int.
    """
    population = population or Population()
    rng = np.random.default_rng(seed)
    if mode == "2afc":
        colored = scenes
    person, photo, group, said = draw(rng, population, people, scenes, colored)
    sloppy = rng.permutation(people) < round(careless * people)
    said = np.where(sloppy[person], rng.integers(0, 2, len(said)), said)
    names = np.array([ORIGINAL, *population.accepted], dtype=object)
    trials = pd.DataFrame(
        {
            "participant": [f"simulated-{number + 1:03d}" for number in person],
            "trial": photo + 1,
            "kind": "main",
            "scene": [f"s{number + 1:03d}" for number in photo],
            "version": np.where(group, "colored", ORIGINAL),
            "method": names[group],
            "said_real": said.astype(float),
        }
    )
    caught = _catch_trials(rng, people, scenes, sloppy)
    trials = pd.concat([trials, caught], ignore_index=True)
    trials["stimulus"] = trials["scene"] + "-" + trials["method"]
    quick = np.isin(trials["participant"], _names(np.flatnonzero(sloppy)))
    trials["response_ms"] = np.where(quick, 250, 1500) * rng.lognormal(0, 0.4, len(trials))
    trials = _answered(trials.assign(session=trials["participant"], mode=mode), rng)
    trials = trials.sort_values(["participant", "trial"], kind="stable", ignore_index=True)
    participants = pd.DataFrame({"participant": _names(range(people))})
    participants = participants.assign(
        session=participants["participant"], repeat=0.0, complete=1.0
    )
    columns = ["stimulus", "scene", "version", "method"]
    images = trials[columns].drop_duplicates("stimulus").sort_values("stimulus", ignore_index=True)
    return Study(trials, participants, images, SOURCE, mode)


def _names(numbers):
    return [f"simulated-{number + 1:03d}" for number in numbers]


def _catch_trials(rng, people, scenes, sloppy, count=4):
    """Trials with misplaced colors, which whoever looks calls fake 19 times in 20."""
    person, number = (index.ravel() for index in np.indices((people, count)))
    real = rng.random(len(person)) < np.where(sloppy[person], 0.5, 0.05)
    return pd.DataFrame(
        {
            "participant": _names(person),
            "trial": scenes + number + 1,
            "kind": "catch",
            "scene": [f"c{one + 1:03d}" for one in number],
            "version": "catch",
            "method": "misplaced",
            "said_real": real.astype(float),
        }
    )


def _answered(trials, rng):
    """The columns that follow from what was taken for real, by mode."""
    fooled = trials["said_real"]
    if trials["mode"].iloc[0] == "yesno":
        answer = np.where(fooled == 1, "real", "fake")
        correct = (fooled == (trials["version"] == ORIGINAL)).astype(float)
        return trials.assign(answer=answer, correct=correct, second_stimulus=None)
    fake_first = rng.random(len(trials)) < 0.5
    answer = np.where(fake_first == (fooled == 0), "first", "second")
    return trials.assign(answer=answer, correct=1 - fooled, second_stimulus=None)


# Do the intervals hold?

# Ideas of the degrees of freedom of a difference; the second is the one that `analysis` has.
RULES = {
    "min - 1": lambda found, sizes: min(sizes) - 1,
    "Welch": lambda found, sizes: found.df,
    "smaller set - 1": lambda found, sizes: found.clusters - 1,
}


def coverage(people, photos, colored=None, studies=200, seed=1, population=None) -> pd.DataFrame:
    """How often 95 % intervals contain the truth in simulated studies with crossed effects.

    Args:
        people, photos, colored: the design, as `draw` takes it.
        studies: how many are simulated.
        seed: int.
        population: a `Population` of one method.

    Returns:
        A row for each interval: interval, people, photos, design (`6+6`: colored and originals, or
        `lists`), studies, coverage, width (the mean one), uncertainty (half the 95 % interval of
        the coverage itself). "naive" takes answers for independent (Wilson). A difference has a
        row for each idea of its degrees of freedom; "Welch" is what `analysis.difference` uses.
    """
    population = population or Population()
    (accepted,) = population.accepted.values()
    gap = accepted - population.original
    rng, held = np.random.default_rng(seed), {}
    for _ in range(studies):
        person, photo, group, said = draw(rng, population, people, photos, colored)
        mine = group == 1
        low, high = analysis.wilson(said[mine].sum(), mine.sum())
        intervals = {"one rate, naive": (low, high, accepted)}
        found = analysis.rate(said[mine], person[mine], photo[mine])
        intervals["one rate, people and photos"] = (found.low, found.high, accepted)
        # With nothing but colored photos there is no difference to measure.
        two = None if mine.all() else analysis.two_way(said, person, photo, mine)
        for name, rule in RULES.items() if two else ():
            free = max(rule(two, (people, photos)), 1)
            half = stats.t.ppf(0.975, free) * np.sqrt(two.variance)
            intervals[f"difference, {name}"] = (two.value - half, two.value + half, gap)
        for name, (low, high, truth) in intervals.items():
            held.setdefault(name, []).append((low <= truth <= high, high - low))
    rows = [
        {"interval": name, **_design(people, photos, colored), **_held(pairs)}
        for name, pairs in held.items()
    ]
    return pd.DataFrame(rows)


def _design(people, photos, colored):
    design = "lists" if colored is None else f"{colored}+{photos - colored}"
    return {"people": people, "photos": photos, "design": design}


def _held(pairs):
    """Coverage and mean width of pairs (held, width), one for each study."""
    share, width = np.mean(pairs, axis=0)
    spread = 1.96 * np.sqrt(share * (1 - share) / len(pairs))
    return {"studies": len(pairs), "coverage": share, "width": width, "uncertainty": spread}


def mixed_coverage(people, photos, colored=None, studies=100, seed=1, population=None):
    """The same for the mixed model: coverage of the method's log odds, and the SDs that it finds.

    Returns:
        A DataFrame of one row as `coverage` has them, with people_sd and photos_sd (medians of the
        fits), and failed (fits that did not converge).
    """
    population = population or Population()
    first, second = population.logits()
    names = np.array([ORIGINAL, *population.accepted], dtype=object)
    rng, fits = np.random.default_rng(seed), []
    for _ in range(studies):
        person, photo, group, said = draw(rng, population, people, photos, colored)
        table = {"participant": person, "stimulus": 2 * photo + group, "method": names[group]}
        fit = analysis.mixed_model(pd.DataFrame(table | {"said_real": said.astype(float)}))
        low, high = fit.fixed.iloc[1][["low", "high"]]
        held = low <= second - first <= high
        fits.append((held, high - low, fit.people_sd, fit.photos_sd, not fit.converged))
    fits = np.array(fits, float)
    row = {"interval": "mixed model, log odds", **_design(people, photos, colored)}
    row |= _held(fits[:, :2])
    row |= dict(zip(("people_sd", "photos_sd"), np.median(fits[:, 2:4], axis=0), strict=True))
    return pd.DataFrame([row | {"failed": int(fits[:, 4].sum())}])


# How many people and photos a study needs


def power(
    people=(20, 40, 80, 160), photos=(12, 24, 48, 96), population=None, studies=100, seed=1
) -> pd.DataFrame:
    """What studies of the balanced design would find, by simulation over people *and* photos.

    More people alone soon stop helping: photos differ too, and their number sets a limit.

    Args:
        people, photos: the numbers to try; photos are scenes, each in both versions.
        population: a `Population`; its first method is planned for.
        studies: simulated studies for each combination.
        seed: int.

    Returns:
        A row for each combination: people, photos, acceptance_width (of the interval of the colored
        photos' acceptance, from end to end), difference_width (of their difference from the
        originals'), power (the share of studies whose interval of the difference leaves 0 out).
    """
    population = population or Population()
    if min(people) < 2 or min(photos) < 4:
        raise ColorlibError(
            "power: needs two people and four photos or more. "
            f"Received: people={min(people)}, photos={min(photos)}"
        )
    rows = []
    for scenes in photos:
        for persons in people:
            # Seeded anew, so that a row does not depend on which others are asked for.
            rng = np.random.default_rng(seed)
            found = np.array([_one_study(rng, population, persons, scenes) for _ in range(studies)])
            wide, gap_wide, clear = found.mean(axis=0)
            row = {"people": persons, "photos": scenes, "acceptance_width": wide}
            rows.append(row | {"difference_width": gap_wide, "power": clear})
    return pd.DataFrame(rows)


def _one_study(rng, population, people, photos):
    person, photo, group, said = draw(rng, population, people, photos)
    one = group == 1
    rate = analysis.rate(said[one], person[one], photo[one])
    part = group <= 1
    gap = analysis.difference(said[part], person[part], photo[part], one[part])
    return rate.high - rate.low, gap.high - gap.low, not gap.low <= 0 <= gap.high


def plan(width, table=None, **options) -> pd.DataFrame:
    """The smallest number of people that a study needs, for each number of photos.

    Args:
        width: wanted width of the 95 % interval, from end to end, in rates: 0.1 is 10 points.
        table: what `power` returned; else it is called with `options`.

    Returns:
        A row for each number of photos: photos, people_for_acceptance, people_for_difference; NA
        where even the largest number of people that was tried is not enough. There are then too
        few photos.
    """
    if not 0 < width < 2:
        raise ColorlibError(f"power: the width must be above 0 and below 2. Received: {width}")
    table = power(**options) if table is None else table
    found = {}
    for photos, part in table.sort_values("people").groupby("photos"):
        for what in ("acceptance", "difference"):
            good = part.loc[part[f"{what}_width"] <= width, "people"]
            found.setdefault(f"people_for_{what}", {})[photos] = good.min() if len(good) else None
    return pd.DataFrame(found).astype("Int64").rename_axis("photos").reset_index()
