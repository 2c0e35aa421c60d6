"""Simulated people, for planning a study and for checking that its intervals hold.

Nothing from here is a finding about photos or people. Every table and figure made from it has
`SOURCE` in its title, and simulated participants are named as such.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
from scipy import optimize, special

from colorlib import ColorlibError
from study import intervals
from study.answers import ORIGINAL, Study

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
    trials, participants = _described(trials, participants, np.random.default_rng([seed, 1]))
    columns = ["stimulus", "scene", "version", "method"]
    images = trials[columns].drop_duplicates("stimulus").sort_values("stimulus", ignore_index=True)
    return Study(trials, participants, images, SOURCE, mode)


# Shares of the replies of simulated people; what is missing to 1 would rather not say.
REPLIES = {
    "photography": {"work": 0.05, "hobby": 0.25, "everyday": 0.5, "little": 0.15},
    "age": {"18-29": 0.35, "30-44": 0.3, "45-59": 0.2, "60": 0.1},
    "known": {"none": 0.75, "some": 0.1, "unsure": 0.1},
    "color_vision": {"typical": 0.8, "red_green": 0.04, "other": 0.02, "unknown": 0.04},
}
PHONES = 0.4  # share of simulated people; the windows below are in CSS px
WINDOWS = {True: (390, 760), False: (1440, 800)}


def _described(trials, participants, rng):
    """Adds the windows, and the replies to the questions of the packaged protocols."""
    for question, shares in REPLIES.items():
        options = np.array([*shares, None], dtype=object)
        chance = [*shares.values(), 1 - sum(shares.values())]
        participants[f"question_{question}"] = rng.choice(options, len(participants), p=chance)
    phone = dict(
        zip(participants["participant"], rng.random(len(participants)) < PHONES, strict=True)
    )
    for place, side in enumerate(("viewport_width", "viewport_height")):
        trials[side] = [float(WINDOWS[phone[one]][place]) for one in trials["participant"]]
    return trials, participants


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
    rate = intervals.rate(said[one], person[one], photo[one])
    part = group <= 1
    gap = intervals.difference(said[part], person[part], photo[part], one[part])
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
