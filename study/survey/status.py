"""How a study is doing, for whoever runs it: counts, and nobody's answers."""

import shutil
from pathlib import Path
from statistics import median

from sqlalchemy import func, select

from study.answers import first_day
from study.survey import doors, migrations, retention, versions
from study.survey.export import read_protocol, read_tables
from study.survey.store import (
    ago,
    answers,
    invitations,
    noted,
    now,
    sessions,
    study,
    withdrawals,
)

NOW_MINUTES = 5  # who has answered within this time is answering now
_OPEN = {None: "open", "paused": "paused: nobody begins", "full": "full: nobody begins"}
_OPEN |= {"closed": "over: nobody begins"}


def status(store) -> dict:
    """{what: how it stands}, in lines to print."""
    told = store.read(_of_study)
    return told | _of_disk(store) | {"last error": store.read(noted, "last_error") or "none"}


def _of_study(connection):
    row = versions.current(connection)
    protocol = read_protocol(row)
    tables, _ = read_tables(connection, protocol, row.sha256)
    trials, people = tables["trials"], tables["participants"]
    demo = "demonstration, " if connection.execute(select(study.c.demo)).scalar_one() else ""
    state = _OPEN[doors.closed(connection, protocol, row.sha256)]
    left = doors.places_left(connection, protocol, row.sha256)
    told = {
        "study": f"{row.name}, version {row.version} (protocol {row.sha256[:8]}), {demo}{state}",
        "consented": len(people),
        "started": trials.loc[trials["answer"].notna(), "session"].nunique(),
        "answering now": _answering(connection, row.sha256),
        "finished": int(people["complete"].sum()),
        "excluded": _excluded(people),
        "on each list": _lists(connection, protocol, row.sha256),
        "places left": "no quota" if left is None else f"{left} of {protocol.entry.quota}",
        "invitations": _invitations(connection),
        "withdrawn": _count(connection, withdrawals),
        "minutes": _minutes(people, protocol),
        "promises": _promises(row),
        "rules": protocol.exclusions.preregistration(first_day(trials)),
    }
    for other in versions.used(connection):
        if other.sha256 != row.sha256:
            count = _count(connection, sessions, sessions.c.protocol_sha256 == other.sha256)
            told[f"version {other.version}"] = f"{count} consented, apart; {_promises(other)}"
    return told


def _count(connection, table, *where):
    return connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()


def _answering(connection, sha256):
    recent = ago(NOW_MINUTES / 60)
    heard = select(answers.c.session).where(answers.c.received_at >= recent)
    return _count(
        connection,
        sessions,
        sessions.c.protocol_sha256 == sha256,
        sessions.c.finished_at.is_(None),
        (sessions.c.started_at >= recent) | sessions.c.session.in_(heard),
    )


def _excluded(people):
    """By which rule how many people are flagged; somebody may be by several."""
    flags = [name for name in people if name.startswith("excluded_")]
    counts = {name.removeprefix("excluded_"): int(people[name].sum()) for name in flags}
    any_ = int(people[flags].any(axis=1).sum())
    rules = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"{any_}" + (f" ({rules})" if rules else "")


def _lists(connection, protocol, sha256):
    """How many people of each balanced list have finished or still may."""
    query = select(sessions.c.list, func.count()).where(doors.has_place(protocol, sha256))
    counts = connection.execute(query.group_by(sessions.c.list).order_by(sessions.c.list))
    return ", ".join(f"{number}: {count}" for number, count in counts) or "nobody"


def _invitations(connection):
    made = _count(connection, invitations)
    return (
        f"{made} made, {_count(connection, invitations, invitations.c.used_at.is_not(None))} used"
    )


def _minutes(people, protocol):
    """How long those who finished took, beside what the texts say."""
    import pandas as pd

    ends = people.dropna(subset="finished_at")
    took = pd.to_datetime(ends["finished_at"]) - pd.to_datetime(ends["started_at"])
    said = f"the texts say {protocol.design.minutes}"
    if ends.empty:
        return f"nobody has finished; {said}"
    return f"{median(took.dt.total_seconds()) / 60:.1f} in the median of {len(ends)}; {said}"


def _promises(row):
    done = {"anonymized_on": row.anonymized_at, "delete_after": row.deleted_at}
    return ", ".join(
        f"{name} {day or 'not settled'}" + (f" (done at {done[name]})" if done[name] else "")
        for name, day in retention.days(row.content).items()
    )


def _of_disk(store):
    size, free = store.read(_size), ""
    if store.url.get_backend_name() == "sqlite":
        left = shutil.disk_usage(Path(store.url.database).resolve().parent).free
        free = f", {left / 1e9:.1f} GB free on its disk"
    return {
        "database": f"{store.name}, schema {migrations.VERSION}, {size / 1e6:.1f} MB{free}",
        "now": now(),
    }


def _size(connection):
    if connection.dialect.name == "postgresql":
        return connection.execute(
            select(func.pg_database_size(func.current_database()))
        ).scalar_one()
    pages, page = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
        for name in ("page_count", "page_size")
    )
    return pages * page
