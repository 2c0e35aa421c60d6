"""Which photos a person sees, in which order. A browser learns only the order."""

import secrets
from random import Random
from typing import NamedTuple

from colorlib import ColorlibError


class Trial(NamedTuple):
    """One question: a photo, or a pair in the order in which it is shown."""

    kind: str  # practice, main or catch
    stimulus: str
    second_stimulus: str | None = None


class Material:
    """The stimuli as plans need them.

    Args:
        protocol: a `study.protocol.Protocol`.
        stimuli: a `study.stimuli.Stimuli`.

    Attributes:
        lists: numbers of the balanced lists.
        version: {stimulus: original, colored or catch}.
        size: {stimulus: (width, height)}, px.

    Raises:
        ColorlibError: the stimuli are too few for the protocol's design.
    """

    def __init__(self, protocol, stimuli):
        self.design, self._pairs = protocol.design, protocol.mode == "2afc"
        self._seed = stimuli.info["key_sha256"]
        table = stimuli.table
        self.version = dict(zip(table["stimulus"], table["version"], strict=True))
        sizes = zip(table["width"], table["height"], strict=True)
        self.size = dict(zip(table["stimulus"], sizes, strict=True))
        self.lists = sorted(int(number) for number in stimuli.lists["list"].unique())
        if self.design.same_for_all:
            self.lists = self.lists[:1]
        find = self._pairs_of if self._pairs else self._photos_of
        self._shown = {number: find(stimuli, number) for number in self.lists}
        for number in self.lists:  # what is missing is told before anybody comes
            self.draw(number, Random(1))

    def _photos_of(self, stimuli, number):
        """{kind: [(stimulus,)]} of a list for questions on one photo."""
        of = {
            "main": stimuli.lists[stimuli.lists["list"] == number],
            "practice": stimuli.practice[stimuli.practice["list"] == number],
            "catch": stimuli.table[stimuli.table["version"] == "catch"],
        }
        return {kind: [(stimulus,) for stimulus in rows["stimulus"]] for kind, rows in of.items()}

    def _pairs_of(self, stimuli, number):
        """{kind: [(original, fake)]} of a list for questions on pairs."""
        return {
            kind: list(stimuli.pairs(number, kind)[["original", "fake"]].itertuples(index=False))
            for kind in ("main", "practice", "catch")
        }

    def draw(self, number, rng=None) -> list[Trial]:
        """A person's trials in their order: practice, then main and catch trials mixed.

        Args:
            number: int. The list that the person is on.
            rng: `random.Random`. Defaults to the system's source of randomness.
        """
        rng = rng or secrets.SystemRandom()
        practice, main, catch = (
            [_trial(kind, photos, rng) for photos in self._choose(kind, number, rng)]
            for kind in ("practice", "main", "catch")
        )
        counted = main + catch
        rng.shuffle(practice)
        rng.shuffle(counted)
        return practice + counted

    def _choose(self, kind, number, rng):
        shown, design = self._shown[number][kind], self.design
        if kind != "main":
            return _sample(shown, getattr(design, kind), kind, rng)
        if design.same_for_all:
            rng = Random(self._seed)
        if self._pairs:
            return _sample(shown, design.scenes, "scenes", rng)
        parts = {"colored": design.colored, "original": design.scenes - design.colored}
        chosen = []
        for version, count in parts.items():
            some = [photos for photos in shown if self.version[photos[0]] == version]
            chosen += _sample(some, count, f"{version} scenes on list {number}", rng)
        return chosen


def _sample(photos, count, what, rng):
    if len(photos) < count:
        raise ColorlibError(
            f"the stimuli hold {len(photos)} {what}, the protocol wants {count}: make more "
            "stimuli, or lower [design] in the protocol"
        )
    return rng.sample(photos, count)


def _trial(kind, photos, rng):
    return Trial(kind, *rng.sample(photos, len(photos)))


def is_correct(trial, answer, version) -> bool:
    """Whether an answer is right.

    Args:
        trial: anything with `stimulus` and `second_stimulus`.
        answer: `real` or `fake`; for a pair `first` or `second`, the photo that is taken for fake.
        version: {stimulus: version}.
    """
    first_is_fake = version[trial.stimulus] != "original"
    return (answer in ("fake", "first")) == first_is_fake
