"""The answers as a folder that others can read: Psych-DS, a data dictionary, CSV and Parquet.

Psych-DS (psych-ds.github.io) asks for a `dataset_description.json` that names every column, and for
CSV files with keyword-value names. An empty cell is a missing value, never an answer. The CSV files
are safe to open in a spreadsheet (`study.tables`); the Parquet files have every text as it is.
"""

import json
import re
from typing import NamedTuple

from sqlalchemy import func, select

from colorlib import __version__
from study import protocol as protocols
from study.folders import new_folder
from study.survey import versions
from study.survey.log import log
from study.survey.plan import is_correct
from study.survey.store import (
    TIMES,
    answers,
    images,
    presentations,
    replies,
    sessions,
    since_midnight,
    study,
    today,
    trials,
    withdrawals,
)
from study.tables import write_csv

FILE = "study-koala_table-{}_data.{}"


class Variable(NamedTuple):
    """A column: its meaning, type (pandas', with missing values), unit and levels."""

    description: str
    type: str = "string"
    unit: str = ""
    levels: dict | None = None


_VERSIONS = {
    "original": "the camera's colors",
    "colored": "colored by a method",
    "catch": "in wrong colors, to check attention",
}
_SHARED = {
    "participant": Variable("a person, as far as the cookie tells; random"),
    "session": Variable("one visit to the study; random"),
    "stimulus": Variable("the photo; of a pair the one shown first"),
    "scene": Variable("what the photo shows, whatever its colors"),
    "version": Variable("of the photo; of a pair the version of the fake", levels=_VERSIONS),
    "method": Variable("what made the colors (of a pair: of the fake); empty for an original"),
}
TRIALS = {
    **{name: _SHARED[name] for name in ("participant", "session")},
    "trial": Variable("place of the trial in the session, from 1", "Int64"),
    "kind": Variable(
        "what the trial is for",
        levels={"practice": "not counted", "main": "counted", "catch": "checks attention"},
    ),
    "mode": Variable(
        "the question",
        levels={"yesno": "one photo: real or fake?", "2afc": "two photos: which one is the fake?"},
    ),
    "stimulus": _SHARED["stimulus"],
    "second_stimulus": Variable("of a pair the photo shown second"),
    **{name: _SHARED[name] for name in ("scene", "version", "method")},
    "answer": Variable(
        "the answer; empty: none was given",
        levels={
            "real": "the colors are the camera's",
            "fake": "the colors are made up",
            "first": "the first photo is the fake",
            "second": "the second photo is the fake",
        },
    ),
    "correct": Variable("whether the answer is right", "boolean"),
    "said_real": Variable(
        "whether the photo was called real; of a pair, whether the fake was taken for the real one",
        "boolean",
    ),
    "response_ms": Variable("from the question on the screen to the answer", "Float64", "ms"),
    "exposure_first_ms": Variable(
        "how long the first timed photo was shown, measured from frame to frame", "Float64", "ms"
    ),
    "exposure_second_ms": Variable("the same of the second photo", "Float64", "ms"),
    "viewport_width": Variable("of the page in the browser", "Int64", "CSS px"),
    "viewport_height": Variable("of the page in the browser", "Int64", "CSS px"),
    "pixel_ratio": Variable("device pixels in a CSS pixel, a browser's zoom included", "Float64"),
    "zoom": Variable("by pinching with two fingers; 1 is none", "Float64"),
    "image_width_css": Variable("of the photo as it was drawn", "Float64", "CSS px"),
    "shown_at": Variable("when the trial began, by the browser's clock, UTC, ISO 8601"),
    "px_per_mm": Variable(
        "CSS px in a millimeter, by the person's own calibration; empty: not asked",
        "Float64",
        "CSS px/mm",
    ),
    "presentations": Variable(
        "how often the server released the photos: 1, more after a reload; empty: never", "Int64"
    ),
    "focus_lost_ms": Variable(
        "how long another window or tab was in front, from the photo to the answer", "Float64", "ms"
    ),
    "server_ms": Variable(
        "from the first release of the photos to the answer, by the server's clock; with the time "
        "on the network, and where the network was gone, until it was back",
        "Float64",
        "ms",
    ),
    "released_at": Variable(
        "when the photos were first released, by the server's clock, UTC, ISO 8601"
    ),
    "received_at": Variable("when the answer was stored, by the server's clock, UTC, ISO 8601"),
    "repeat": Variable("whether the study had been begun before in this browser", "boolean"),
}
PARTICIPANTS = {
    **{name: _SHARED[name] for name in ("participant", "session")},
    "protocol": Variable("name of the protocol"),
    "protocol_version": Variable("its version"),
    "protocol_sha256": Variable(
        "hash of the protocol that the person was shown and agreed to: of the file protocol.json"
    ),
    "consent_version": Variable("version of the text that was agreed to"),
    "list": Variable("balanced list that the person was on", "Int64"),
    "entry": Variable(
        "how the person came",
        levels={
            "open": "by the open link",
            "invitation": "by an invitation that works once",
            "panel": "by a recruitment panel",
        },
    ),
    "panel_hash": Variable(
        "salted hash (HMAC-SHA-256) of the panel's id; empty after the day of anonymization"
    ),
    "repeat": TRIALS["repeat"],
    "panel_repeat": Variable(
        "whether a session had begun before with this panel id, which anybody can write into a "
        "link: no rule excludes by it",
        "boolean",
    ),
    "superseded_at": Variable(
        "when another session began with the same panel id before this one was finished, UTC, "
        "ISO 8601; empty: none did"
    ),
    "started_at": Variable(
        "when consent was given, UTC, ISO 8601; where panel ids are left out, and once the session "
        "is anonymous, all its times are moved together so that this one is midnight"
    ),
    "finished_at": Variable("when the last answer was confirmed, UTC, ISO 8601"),
    "complete": Variable("whether all trials are answered and the end was reached", "boolean"),
}
_PANEL = {"panel_hash"}
IMAGES = {
    **{name: _SHARED[name] for name in ("stimulus", "scene", "version", "method")},
    "source": Variable("file that the photo was made of"),
    "sha256": Variable("of the file that was served"),
    "width": Variable("of the file", "Int64", "px"),
    "height": Variable("of the file", "Int64", "px"),
}
WITHDRAWALS = {
    "withdrawn_at": Variable(
        "when somebody's rows were deleted, of whatever version of the protocol, UTC, ISO 8601; "
        "only the day where panel ids are left out"
    )
}
# The rules stand in the protocol under [exclusions], with the day on which they were fixed.
_FLAGS = {
    "excluded_incomplete": "the session was not finished",
    "excluded_repeat": "the person had taken part before",
    "excluded_catch": "too many wrong answers to catch trials",
    "excluded_fast": "the median answer was too fast",
    "excluded_same": "nearly always the same answer",
    "excluded_rate": "ten answers in a row were faster than a person can be",
    "excluded_total": "the whole took less time than a person needs",
    "excluded_response": "this answer was too fast or too slow",
    "excluded_exposure": "a timed photo was shown too long or too short",
    "excluded_server": "the server saw this answer too soon after the photo, or sooner than the "
    "browser said",
    "excluded_presentations": "the photos were shown too often",
}


_NO_REPLY = (
    "no reply; of a complete session the person would rather not say, left it open, or did not "
    "agree to be asked"
)


def export(connection, folder, panel=True) -> dict:
    """Writes all answers to a new folder, complete or not at all.

    Where people have taken part under several versions of the protocol, each version gets a folder
    of its own in there, as if it were a study of its own.

    Args:
        connection: reads the database.
        folder: path of the new folder.
        panel: bool. Whether the hashes of panel ids come along, and the hours at which people took
            part. They are for the one who runs the study, not for publication.

    Returns:
        dict: {table: its number of rows}.

    Raises:
        ColorlibError: the folder is not empty or can't be written.
    """
    with new_folder(folder) as part:
        rows = versions.used(connection)
        counts = [
            _export(connection, row, part if len(rows) == 1 else part / folder_of(row), panel)
            for row in rows
        ]
    # Photos and withdrawals are the database's: each version's folder has them all.
    apart = ("trials", "participants")
    return {
        name: sum(count[name] for count in counts) if name in apart else number
        for name, number in counts[0].items()
    }


def folder_of(row) -> str:
    """The name of a version's folder, of its row of `protocols`."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", row.version)[:40]
    return f"version-{readable}-{row.sha256[:8]}"


def _export(connection, row, folder, panel):
    """Writes the answers to one version of the protocol; {table: its number of rows}."""
    protocol = read_protocol(row)
    tables, variables = read_tables(connection, protocol, row.sha256, panel)
    (folder / "data").mkdir(parents=True)
    for name, table in tables.items():
        _write_table(folder / "data", name, table, variables[name])
    _write_dictionary(folder / "data_dictionary.csv", variables)
    demo = connection.execute(select(study.c.demo)).scalar_one()
    _write_description(folder, protocol, demo, variables)
    (folder / "protocol.json").write_text(row.content, encoding="utf-8", newline="\n")
    return {name: len(table) for name, table in tables.items()}


def read_protocol(row):
    """The protocol of a row of `protocols`, with a line in the log if it was another program's."""
    protocol, fields = protocols.kept(row.content)
    if fields:
        log.warning(
            "version %s was kept by another version of this program, where these fields differ: "
            "%s. Rules that it did not have are not applied",
            row.version,
            ", ".join(fields),
        )
    return protocol


def _frame(connection, query):
    import pandas as pd

    result = connection.execute(query)
    return pd.DataFrame(result.all(), columns=list(result.keys()), dtype=object)


def read_tables(connection, protocol, sha256, panel=True):
    """{table: DataFrame} and {table: {column: Variable}}, with the flags of exclusion.

    Args:
        connection: reads the database.
        protocol: `study.protocol.Protocol`.
        sha256: of the protocol, as the database keeps it: only these sessions are read.
        panel: bool. Whether the hashes of panel ids are among them, and times as they were.
    """
    from study.answers import Study, flag_exclusions

    pictures = _frame(connection, select(*[images.c[name] for name in IMAGES]))
    people, questions = _people(connection, protocol, sha256)
    columns = {name: item for name, item in PARTICIPANTS.items() if panel or name not in _PANEL}
    variables = {
        "trials": dict(TRIALS),
        "participants": columns | questions,
        "images": IMAGES,
        "withdrawals": WITHDRAWALS,
    }
    tables = {
        "trials": _trials(connection, protocol, pictures, people),
        "participants": people,
        "images": pictures.sort_values("stimulus"),
        "withdrawals": _frame(
            connection, select(withdrawals.c.withdrawn_at).order_by(withdrawals.c.withdrawn_at)
        ),
    }
    if not panel:
        starts = people.set_index("session")["started_at"].to_dict()
        for name in ("trials", "participants"):
            _move_times(tables[name], starts)
        gone = tables["withdrawals"]
        gone["withdrawn_at"] = gone["withdrawn_at"].str[:10]
    tables = {name: _typed(table, variables[name]) for name, table in tables.items()}
    three = [tables[name] for name in ("trials", "participants", "images")]
    flagged = flag_exclusions(Study(*three, source=protocol.name, mode=protocol.mode), protocol)
    for name, table in (("trials", flagged.trials), ("participants", flagged.participants)):
        new = [column for column in table if column not in tables[name]]
        variables[name] |= {flag: Variable(_FLAGS[flag], "boolean") for flag in new}
        tables[name] = _typed(table, variables[name])
    return tables, variables


def _people(connection, protocol, sha256):
    """The table of participants, and the variables of the optional questions."""
    query = select(sessions).where(sessions.c.protocol_sha256 == sha256)
    # By their random names: the order in which people came would tell the hours that are left out.
    people = _frame(connection, query.order_by(sessions.c.session))
    people["protocol"], people["protocol_version"] = protocol.name, protocol.version
    people["complete"] = people["finished_at"].notna()
    given = _frame(connection, select(replies))
    questions = {}
    for question in protocol.questions:
        column = f"question_{question.id}"
        levels = {option.value: option.label for option in question.options}
        questions[column] = Variable(f"{question.text} (empty: {_NO_REPLY})", levels=levels)
        mine = given[given["question"] == question.id].set_index("session")["value"]
        people[column] = people["session"].map(mine)
    return people[[*PARTICIPANTS, *questions]], questions


def _trials(connection, protocol, pictures, people):
    """Every trial of every plan; unanswered ones have empty cells."""
    from study.answers import milliseconds

    kept = [column for column in answers.c if column.name not in ("id", "session", "trial")]
    place = (presentations.c.session, presentations.c.trial)
    seen = (
        select(
            *place,
            func.count().label("presentations"),
            func.min(presentations.c.released_at).label("released_at"),
        )
        .group_by(*place)
        .subquery()
    )
    query = select(trials, seen.c.presentations, seen.c.released_at, *kept)
    for part in (seen, answers):
        here = (part.c.session == trials.c.session) & (part.c.trial == trials.c.trial)
        query = query.outerjoin(part, here)
    table = _frame(connection, query.order_by(trials.c.session, trials.c.trial))
    table["server_ms"] = milliseconds(table["released_at"], table["received_at"])
    table = table.merge(people[["session", "participant", "repeat"]], on="session")
    table["mode"] = protocol.mode
    known = pictures.set_index("stimulus")
    version = known["version"].to_dict()
    rows = list(table.itertuples())
    fakes = [
        row.stimulus
        if not row.second_stimulus or version[row.stimulus] != "original"
        else row.second_stimulus
        for row in rows
    ]
    for column in ("scene", "version", "method"):
        table[column] = [known.at[stimulus, column] for stimulus in fakes]
    given = [row for row in rows if row.answer]
    right = {row.Index: is_correct(row, row.answer, version) for row in given}
    real = {
        row.Index: not right[row.Index] if row.second_stimulus else row.answer == "real"
        for row in given
    }
    table["correct"] = [right.get(index) for index in table.index]
    table["said_real"] = [real.get(index) for index in table.index]
    return table[list(TRIALS)]


def _move_times(table, starts):
    """Moves the times of each session, as anonymization does."""
    for column in set(TIMES) & set(table):
        table[column] = [
            since_midnight(value, starts[session]) if value else value
            for session, value in zip(table["session"], table[column], strict=True)
        ]


def _typed(table, variables):
    """The table with its columns ordered and typed, missing values kept."""
    types = {name: variable.type for name, variable in variables.items()}
    return table[list(types)].astype(types).reset_index(drop=True)


def _write_table(folder, name, table, variables):
    table.to_parquet(folder / FILE.format(name, "parquet"), index=False)
    text = table.copy()
    for column, variable in variables.items():
        if variable.type == "boolean":
            text[column] = text[column].map({True: "true", False: "false"})
    path = folder / FILE.format(name, "csv")
    write_csv(text, path)


def _write_dictionary(path, variables):
    import pandas as pd

    rows = [
        {
            "table": table,
            "column": name,
            "description": variable.description,
            "type": variable.type.lower().removesuffix("64"),
            "unit": variable.unit,
            "levels": "; ".join(
                f"{key}: {value}" for key, value in (variable.levels or {}).items()
            ),
            "missing": "empty cell",
        }
        for table, columns in variables.items()
        for name, variable in columns.items()
    ]
    write_csv(pd.DataFrame(rows), path)


def _write_description(folder, protocol, demo, variables):
    measured = {name: item for columns in variables.values() for name, item in columns.items()}
    note = "Answers of a demonstration, not of a study. " if demo else ""
    description = {
        "@context": "https://schema.org/",
        "@type": "Dataset",
        "name": f"{protocol.name}, version {protocol.version}",
        "description": f"{note}People told colored photographs from originals, or tried to; "
        "data_dictionary.csv says what each column holds, protocol.json how it was asked.",
        "creator": protocol.contact.name,
        "dateCreated": today().isoformat(),
        "schemaVersion": "Psych-DS 0.4.0",
        "encodingFormat": "text/csv",
        "inLanguage": protocol.language,
        "isBasedOn": f"study.survey of colorlib {__version__}",
        "variableMeasured": [_property(name, item) for name, item in sorted(measured.items())],
    }
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    (folder / "dataset_description.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(
        f"# {description['name']}\n\n{description['description']}\n\nA row with `excluded_...` "
        "true is left out of the analysis by a rule of protocol.json; no row has been removed.\n\n"
        "In the CSV files, a text that a spreadsheet would run as a formula (= + - @ at its start) "
        "has an apostrophe before it; the Parquet files have every text as it is.\n",
        encoding="utf-8",
    )


def _property(name, variable):
    """A column as schema.org's PropertyValue."""
    entry = {"@type": "PropertyValue", "name": name, "description": variable.description}
    if variable.unit:
        entry["unitText"] = variable.unit
    if variable.levels:
        entry["valueReference"] = [
            {"@type": "PropertyValue", "value": key, "description": str(value)}
            for key, value in variable.levels.items()
        ]
    return entry
