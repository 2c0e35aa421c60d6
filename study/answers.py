"""The tables of a study, read from an export and checked, with exclusions as flags.

Rows are never changed or removed. A missing answer is NaN and counts as neither "real" nor "fake".
"""

import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from colorlib import ColorlibError
from study.tables import read_csv

ORIGINAL = "original"  # the method of photos that nothing has colored
_RUN = 10  # answers in a row whose rate is looked at: fewer may be quick by chance
_CLOCK_MS = 100  # by which two clocks may differ


@dataclass(frozen=True)
class Study:
    """The rows of a study and their source.

    Attributes:
        trials, participants, images: the three tables of an export (see study/README.md).
        source: the kind of data, for the title of every table and figure.
        mode: `yesno` or `2afc`.
        preregistration: a sentence that says whether the rules came before the first answer.
    """

    trials: pd.DataFrame
    participants: pd.DataFrame
    images: pd.DataFrame
    source: str
    mode: str
    preregistration: str = "Nobody answered: simulated people have no preregistration."

    def counted(self) -> pd.Series:
        """Whether each of the participants counts: no rule flags them. Series of bool."""
        return ~_flagged(self.participants)

    def answers(self) -> pd.DataFrame:
        """The answers that count: unflagged main trials of unflagged people."""
        kept = self.participants.loc[self.counted(), ["participant", "session"]]
        rows = self.trials[(self.trials["kind"] == "main") & ~_flagged(self.trials)]
        rows = rows.merge(kept, on=["participant", "session"], validate="many_to_one")
        columns = ["participant", "scene", "stimulus", "method", "said_real", "correct"]
        return rows[columns].assign(method=rows["method"].fillna(ORIGINAL))


def _flagged(table):
    flags = [name for name in table if name.startswith("excluded_")]
    return table[flags].fillna(0).astype(bool).any(axis=1)


def flag_exclusions(study: Study, protocol) -> Study:
    """Flags the protocol's preregistered exclusions; no row is changed or lost.

    Args:
        protocol: a `study.protocol.Protocol`; its `exclusions` has the rules. Those on how a person
            answers need ten answers, or all where a session has fewer: whoever stops before has
            not answered badly.
    """
    rules, trials, people = protocol.exclusions, study.trials, study.participants
    main, catch = (trials[trials["kind"] == kind] for kind in ("main", "catch"))
    key = pd.MultiIndex.from_frame(people[["participant", "session"]])

    def by_person(rows, column, how):
        found = rows.dropna(subset=column).groupby(["participant", "session"])[column].agg(how)
        return found.reindex(key).astype(float).to_numpy()

    most = by_person(main, "answer", lambda said: said.value_counts(normalize=True).max())
    # Few answers of somebody who stopped tell nothing of how they answer.
    enough = by_person(main, "answer", "size") >= min(_RUN, protocol.design.scenes)
    wrong = by_person(catch, "correct", lambda right: (right == 0).sum())
    most_wrong = protocol.design.catch - rules.min_catch_correct
    rates = _highest_rate(trials)
    people = people.assign(
        excluded_incomplete=rules.incomplete & ~people["complete"].astype(bool),
        excluded_repeat=rules.repeats & people["repeat"].astype(bool),
        excluded_catch=np.nan_to_num(wrong) > most_wrong,
        excluded_fast=enough
        & (by_person(main, "response_ms", "median") < rules.min_median_response_ms),
        excluded_same=enough & (most > rules.max_same_answer_share),
        excluded_rate=[rates.get(person, 0) > rules.max_answers_per_minute for person in key],
        excluded_total=_total_s(people) < rules.min_total_s,
    )
    response = trials["response_ms"].astype(float)
    trials = trials.assign(
        excluded_response=(response < rules.min_response_ms) | (response > rules.max_response_ms),
        excluded_exposure=_exposure_error(trials, protocol) > rules.max_exposure_error_ms,
        excluded_server=_is_too_soon(trials, rules.min_server_ms),
        excluded_presentations=_column(trials, "presentations") > rules.max_presentations,
    )
    return replace(study, trials=trials, participants=people)


def milliseconds(start, end):
    """From one column of ISO 8601 times to another: float Series, ms; NaN where one is missing."""
    return _moments(end) - _moments(start)


def _moments(column):
    times = pd.to_datetime(column, utc=True, format="ISO8601")
    return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(milliseconds=1)


def _column(table, name):
    """A column of numbers; NaN where it is missing, as in data that no server has witnessed."""
    return (
        table[name].astype(float) if name in table else pd.Series(np.nan, table.index, dtype=float)
    )


def _is_too_soon(trials, least):
    """Whether the server saw an answer sooner than `least`, ms, or than the browser says."""
    server = _column(trials, "server_ms")
    names = ("response_ms", "exposure_first_ms", "exposure_second_ms")
    said = sum(_column(trials, name).fillna(0) for name in names)
    return ((server < least) | (server < said - _CLOCK_MS)) & (least > 0)


def _highest_rate(trials):
    """Answers per minute in the fastest run of ten (or of all), by (participant, session).

    Sessions with fewer answers than such a run has aren't in it.
    """
    if not {"released_at", "received_at"} <= set(trials):
        return {}
    times = trials[["participant", "session", "trial"]].assign(
        released=_moments(trials["released_at"]), received=_moments(trials["received_at"])
    )
    planned = times.groupby(["participant", "session"]).size()
    times = times.dropna().sort_values("trial", key=pd.to_numeric)
    rates = {}
    for person, rows in times.groupby(["participant", "session"]):
        count = min(_RUN, planned[person])
        if len(rows) < count:
            continue
        starts, ends = (rows[name].to_numpy() for name in ("released", "received"))
        spans = ends[count - 1 :] - starts[: len(rows) - count + 1]
        rates[person] = 60_000 * count / max(spans.min(), 1)
    return rates


def _total_s(people):
    """From consent to the end, s; NaN where the end or the times are missing."""
    if not {"started_at", "finished_at"} <= set(people):
        return pd.Series(np.nan, people.index, dtype=float)
    return milliseconds(people["started_at"], people["finished_at"]) / 1000


def _exposure_error(trials, protocol):
    """The larger exposure error of each trial's photos, ms; 0 where photos are not timed."""
    columns = [name for name in ("exposure_first_ms", "exposure_second_ms") if name in trials]
    if not protocol.design.exposure_s or not columns:
        return pd.Series(0.0, trials.index)
    error = (trials[columns].astype(float) - 1000 * protocol.design.exposure_s).abs()
    return error.max(axis=1).fillna(0)


def exclusion_table(study: Study) -> pd.DataFrame:
    """How many people or answers each rule flags; then `any` rule, and the total (`of`)."""
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
NUMBERS = (
    *("response_ms", "exposure_first_ms", "exposure_second_ms"),
    *("viewport_width", "viewport_height", "server_ms", "presentations"),
)


def read_export(folder) -> Study:
    """Reads and checks the folder that `python -m study export` writes.

    Raises:
        ColorlibError: a file or column is missing, a value is not one of its levels, a person
            answered a trial twice, a session or photo is listed twice, or tables contradict each
            other; the line says where.
    """
    folder = Path(folder)
    description = _description(folder / "dataset_description.json")
    tables = {name: _read_table(folder / "data" / NAME.format(name), name) for name in COLUMNS}
    trials, participants, images = tables.values()
    _check_agreement(trials, participants, images)
    modes = sorted(set(trials["mode"]))
    if len(modes) != 1:
        raise ColorlibError(f"{folder}: must hold answers of one mode. Received: {modes or 'none'}")
    # The export of `serve --demo` says so in its description.
    kind = "demonstration" if "demonstration" in str(description.get("description")) else "survey"
    source = f"export of the {kind}: {description.get('name', folder.name)}"
    return Study(trials, participants, images, source, modes[0], _preregistration(folder, trials))


def _preregistration(folder, trials):
    """What the protocol of an export says about its rules, against the day of the first answer."""
    from study import protocol

    path = folder / "protocol.json"
    if not path.is_file():
        return "The export has no protocol.json: nothing tells when its exclusion rules were fixed."
    try:
        rules = protocol.kept(path.read_text(encoding="utf-8"))[0].exclusions
    except (OSError, ValueError, LookupError, TypeError):
        raise ColorlibError(f"{path}: not a protocol; export the study again") from None
    return rules.preregistration(first_day(trials))


def first_day(trials) -> date | None:
    """The day (UTC) on which the first answer of a table of trials arrived; None without one."""
    given = trials["received_at"].dropna() if "received_at" in trials else []
    return date.fromisoformat(min(given)[:10]) if len(given) else None


def _description(path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        versions = sorted(part.parent.name for part in path.parent.glob(f"*/{path.name}"))
        if versions:
            raise ColorlibError(
                f"{path.parent}: holds several versions of a study; give the folder of one: "
                f"{', '.join(versions)}"
            ) from None
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
        table = read_csv(path, na_values=[""])
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
    _refuse(path.name, column, wrong, f"must be one of {', '.join(sorted(levels))}, or empty")


def _numbers(path, column):
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = column.notna() & numbers.isna()
    _refuse(path.name, column, wrong, "must be a number, or empty")
    return numbers


def _refuse(file, column, wrong, problem):
    """Raises an error that names the first row of a column that is wrong, if one is."""
    if np.any(wrong):
        row = int(np.flatnonzero(wrong)[0])
        raise ColorlibError(
            f"{file}, row {row + 2}, {column.name}: {problem}. Received: {column.iloc[row]!r}"
        )


def _check_agreement(trials, participants, images):
    def check(name, column, wrong, problem):
        _refuse(NAME.format(name), column, wrong, problem)

    session, twice = ["participant", "session"], "stands in an earlier row too"
    check("participants", participants["session"], participants.duplicated(session), twice)
    check("images", images["stimulus"], images.duplicated("stimulus"), twice)
    repeated = trials.duplicated([*session, "trial"])
    check("trials", trials["trial"], repeated, f"this trial of this session {twice}")
    for column in ("stimulus", "second_stimulus"):
        unknown = trials[column].notna() & ~trials[column].isin(images["stimulus"])
        check("trials", trials[column], unknown, "is not in the table of images")
    people = participants.set_index(session).index
    for column, unknown in (
        ("participant", ~trials["participant"].isin(participants["participant"])),
        ("session", ~trials.set_index(session).index.isin(people)),
    ):
        check("trials", trials[column], unknown, "is not in the table of participants")
    single, known = trials["mode"] == "yesno", images.set_index("stimulus")
    for column in ("scene", "version", "method"):
        truth = trials["stimulus"].map(known[column])
        wrong = single & (truth.fillna("") != trials[column].fillna(""))
        check("trials", trials[column], wrong, "contradicts the table of images")
    told = trials["answer"].map({"real": 1.0, "fake": 0.0})
    agrees = (told == trials["said_real"]) | (told.isna() & trials["said_real"].isna())
    check("trials", trials["said_real"], single & ~agrees, "contradicts the answer")
