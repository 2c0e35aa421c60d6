"""What a protocol's rules find, and what they can't: simulated people who don't look, and scripts.

No rule sees whether somebody looked. A rule sees times, a share of one answer, and attention
checks, and whoever gets these right passes. `report` says for a protocol who does.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from study.answers import Study, flag_exclusions

NETWORK_MS = 60  # a photo's release and an answer on their way


class Behavior(NamedTuple):
    """How somebody answers. Times are in ms; the response's is the median of a log-normal one."""

    right: float  # the chance of a right answer
    catch_right: float  # the same in a catch trial
    response: float
    says: float | None = None  # the share of the first answer, whatever is shown; else as `right`
    forged: bool = False  # the browser's times are invented, and the server's are what they are
    presentations: int = 1


BEHAVIORS = {
    "a person who looks": Behavior(0.75, 0.97, 1500),
    "a quick person who looks": Behavior(0.7, 0.95, 750),
    "hasty, at random": Behavior(0.5, 0.5, 250),
    "always the same": Behavior(0.5, 0.5, 1500, says=1.0),
    "a script, at once, with forged times": Behavior(0.5, 1.0, 5, forged=True),
    "each photo looked at three times, by reloading": Behavior(0.85, 1.0, 1500, presentations=3),
    "a calm person, at random": Behavior(0.5, 0.5, 1500),
    "at random, but looks at what is plainly wrong": Behavior(0.5, 0.97, 1500),
    "a script, calm, that finds the catch trials": Behavior(0.5, 1.0, 1500),
}


def simulate(protocol, behavior, people=100, seed=1) -> Study:
    """The export of so many people of one behavior: their trials as browser and server saw them.

    Args:
        protocol: `study.protocol.Protocol`.
        behavior: `Behavior`.
        people: int.
        seed: int.
    """
    rng, design = np.random.default_rng(seed), protocol.design
    person, trial = (index.ravel() for index in np.indices((people, protocol.trials)))
    catch = trial >= design.scenes
    fake_first = rng.random(len(trial)) < np.where(catch, 1, design.colored_share)
    choices = ("first", "second") if protocol.mode == "2afc" else ("fake", "real")
    right = rng.random(len(trial)) < np.where(catch, behavior.catch_right, behavior.right)
    said_first = right == fake_first
    if behavior.says is not None:
        said_first = rng.random(len(trial)) < behavior.says
    spent = behavior.response * rng.lognormal(0, 0.4, len(trial))
    photos = 2 if protocol.mode == "2afc" else 1
    shown = 1000 * design.exposure_s
    watched = photos * (shown + 1000 * design.pause_s)  # which a script spares itself
    server = spent if behavior.forged else NETWORK_MS + watched + spent
    said = rng.lognormal(np.log(1500), 0.4, len(trial)) if behavior.forged else spent
    end = np.cumsum(server.reshape(people, -1) + NETWORK_MS, axis=1).ravel()
    names = np.array([f"simulated-{number + 1:03d}" for number in range(people)])
    trials = pd.DataFrame(
        {
            "participant": names[person],
            "session": names[person],
            "trial": trial + 1,
            "kind": np.where(catch, "catch", "main"),
            "answer": np.where(said_first, *choices),
            "correct": (said_first == fake_first).astype(float),
            "response_ms": said,
            "server_ms": server,
            "presentations": behavior.presentations,
            "released_at": _clock(end - server),
            "received_at": _clock(end),
        }
    )
    for name in ("exposure_first_ms", "exposure_second_ms")[: photos if shown else 0]:
        trials[name] = shown
    reading = 5_000 if behavior.forged else 40_000  # ms before the first photo and after the last
    last = end.reshape(people, -1)[:, -1]
    participants = pd.DataFrame({"participant": names, "session": names})
    participants = participants.assign(
        repeat=False,
        complete=True,
        started_at=_clock(np.full(people, -reading)),
        finished_at=_clock(last),
    )
    return Study(trials, participants, pd.DataFrame(), "simulated people", protocol.mode)


def _clock(ms):
    moments = pd.Timestamp("2027-01-01", tz="UTC") + pd.to_timedelta(ms, unit="ms")
    return moments.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def report(protocol, people=100, seed=1) -> pd.DataFrame:
    """Who passes a protocol's rules.

    Returns:
        A row for each of `BEHAVIORS`: `people_flagged` and `answers_flagged` (shares of all), and
        `answers_left`, the share of the main answers that would count.
    """
    rows = []
    for name, behavior in BEHAVIORS.items():
        study = flag_exclusions(simulate(protocol, behavior, people, seed), protocol)
        persons, answers = (
            table.filter(like="excluded_").fillna(0).astype(bool).any(axis=1)
            for table in (study.participants, study.trials)
        )
        main = study.trials["kind"] == "main"
        by_name = pd.Series(persons.to_numpy(), index=study.participants["participant"])
        out = answers | study.trials["participant"].map(by_name)
        rows.append((name, persons.mean(), answers[main].mean(), 1 - out[main].mean()))
    columns = ["behavior", "people_flagged", "answers_flagged", "answers_left"]
    return pd.DataFrame(rows, columns=columns)
