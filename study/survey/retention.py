"""What protocols promise about time, carried out: anonymization, deletion.

The server does it at its start and at every midnight (UTC), and so does every command. People are
treated as the protocol promises that they agreed to, whatever a later version says.
"""

import json
from datetime import date

from sqlalchemy import and_, delete, inspect, select, table, text, update
from sqlalchemy import column as named

from study.survey.log import log
from study.survey.store import (
    TIMES,
    answers,
    invitations,
    now,
    presentations,
    protocols,
    sessions,
    since_midnight,
    today,
    withdrawals,
)

# What a session's row keeps instead of what could tell whose it is. A new column that could belongs
# here, too.
ANONYMOUS = {"cookie_hash": "", "panel_hash": None, "invitation_hash": None}
ANONYMOUS |= {"withdrawal_code": sessions.c.session}


def days(content) -> dict:
    """{field: the day from which it holds, or None} of a kept protocol's content.

    Its JSON is read without the model: that works for protocols of any version of this program.
    """
    fields = json.loads(content).get("retention", {})
    return {
        name: date.fromisoformat(fields[name]) if fields.get(name) else None
        for name in ("anonymized_on", "delete_after")
    }


def is_due(connection) -> bool:
    """Whether something has come due that is not yet carried out."""
    return any(_due(row) for row in connection.execute(select(protocols)))


def _due(row):
    """What has come due of a protocol's promises: `anonymized_on`, `delete_after`."""
    day, promised = today(), days(row.content)
    anonymized, deleted = promised["anonymized_on"], promised["delete_after"]
    due = {
        "anonymized_on": anonymized and day >= anonymized and not row.anonymized_at,
        "delete_after": deleted and day > deleted and not row.deleted_at,
    }
    return [name for name, comes in due.items() if comes]


def carry_out(store):
    """Anonymizes and deletes what has come due, with a line in the log for each."""
    if store.read(is_due):  # else nothing is written: a command works on a full disk, too
        for line in store.write(_carry_out):
            log.warning(line)
        store.forget()
    # Restored backups are deleted by their day from now on. Looked at each time: a server that was
    # killed after the deletion may have left the file.
    if store.tombstones.exists() and store.read(_is_nobody_left):
        store.tombstones.unlink(missing_ok=True)


def _carry_out(connection):
    """A line for each thing that was done: list of str."""
    done = []
    for row in connection.execute(select(protocols)).all():
        for name in _due(row):
            act = {"anonymized_on": _anonymize, "delete_after": _delete}[name]
            count, what = act(connection, row.sha256)
            day = days(row.content)[name]
            done.append(
                f"{count} sessions of version {row.version} {what} (retention.{name}: {day})"
            )
    if _is_nobody_left(connection):
        for table_ in (invitations, withdrawals):
            connection.execute(delete(table_))
    return done


def _is_nobody_left(connection) -> bool:
    """Whether the people of all protocols have been deleted by their day."""
    deleted = connection.execute(select(protocols.c.deleted_at)).scalars().all()
    return bool(deleted) and all(deleted)


def since(connection) -> str:
    """Whose answers nobody can tell any more, for whoever looks for a person's; or nothing."""
    query = select(protocols).where(protocols.c.anonymized_at.is_not(None))
    told = [
        f"version {row.version}'s since {days(row.content)['anonymized_on']}"
        for row in connection.execute(query.order_by(protocols.c.adopted_at))
    ]
    return f" (anonymous are {', '.join(told)})" if told else ""


def _anonymize(connection, sha256):
    theirs = sessions.c.protocol_sha256 == sha256
    _move_times(connection, theirs)
    count = connection.execute(update(sessions).where(theirs).values(ANONYMOUS)).rowcount
    _lose_order(connection, sha256)
    _stamp(connection, sha256, "anonymized_at")
    return count, "anonymized"


def _move_times(connection, which):
    """Moves all times of sessions by `since_midnight`."""
    query = select(sessions.c.session, sessions.c.started_at).where(which)
    starts = dict(map(tuple, connection.execute(query)))
    for table_ in (answers, presentations, sessions):
        columns = [column for column in table_.c if column.name in TIMES]
        query = select(table_).where(table_.c.session.in_(select(sessions.c.session).where(which)))
        for row in connection.execute(query).mappings().all():
            key = and_(*(column == row[column.name] for column in table_.primary_key))
            moved = {
                column.name: since_midnight(row[column.name], starts[row["session"]])
                for column in columns
                if row[column.name]
            }
            connection.execute(update(table_).where(key).values(moved))


def _lose_order(connection, sha256):
    """Writes the rows of a protocol's sessions anew, in the order of the sessions' random names.

    Tables keep their rows in the order in which they came, which tells who came after whom.
    """
    quote = connection.dialect.identifier_preparer.quote
    names = [(quote(name), quote(f"kept_{name}")) for name in _of_sessions(connection)]
    theirs = "SELECT session FROM sessions WHERE protocol_sha256 = :sha256"
    for name, kept in names:
        chosen = f"SELECT * FROM {name} WHERE session IN ({theirs})"
        copy = text(f"CREATE TEMPORARY TABLE {kept} AS {chosen}")
        connection.execute(copy, {"sha256": sha256})
    delete_sessions(connection, sessions.c.protocol_sha256 == sha256)
    for name, kept in names:
        connection.execute(text(f"INSERT INTO {name} SELECT * FROM {kept} ORDER BY session"))
        connection.execute(text(f"DROP TABLE {kept}"))


def _delete(connection, sha256):
    count = delete_sessions(connection, sessions.c.protocol_sha256 == sha256)
    _stamp(connection, sha256, "deleted_at")
    return count, "deleted with all their answers"


def _stamp(connection, sha256, name):
    mine = protocols.c.sha256 == sha256
    connection.execute(update(protocols).where(mine).values({name: now()}))


def delete_sessions(connection, which) -> int:
    """Deletes sessions with all that belongs to them, in every table that has a column `session`.

    Args:
        connection: of a transaction that writes.
        which: a condition on `store.sessions`.

    Returns:
        int: how many sessions are gone.
    """
    theirs = select(sessions.c.session).where(which)
    for name in reversed(_of_sessions(connection)):
        if name != sessions.name:
            rows = table(name, named("session"))
            connection.execute(delete(rows).where(rows.c.session.in_(theirs)))
    return connection.execute(delete(sessions).where(which)).rowcount


def _of_sessions(connection) -> list[str]:
    """The tables that have a column `session`, each after those that it depends on.

    They are the database's own: one that a newer version of this program has made may have more of
    them than this version knows.
    """
    there = inspect(connection)
    names = [name for name, _ in there.get_sorted_table_and_fkc_names() if name]
    columns = {name: {column["name"] for column in there.get_columns(name)} for name in names}
    return [name for name in names if "session" in columns[name]]
