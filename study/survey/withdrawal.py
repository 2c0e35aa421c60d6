"""Who withdraws is deleted, and stays deleted when an old backup is restored.

Of each withdrawal a tombstone is kept: a hash of its code under the study's salt, which tells
nothing about the person or the answers. It stands in the database and in a file beside it, because
a restored backup brings back the withdrawn rows and has lost the tombstones in the database.
"""

import os
import threading
from datetime import date
from pathlib import Path

from sqlalchemy import delete, insert, select

from colorlib import ColorlibError
from study.survey.codes import plain
from study.survey.entry import seal
from study.survey.store import Refusal, answers, metadata, now, sessions, study, withdrawals

_file = threading.Lock()


def withdraw(connection, text):
    """Deletes the session with this code, and records that somebody withdrew.

    Args:
        connection: of a transaction that writes.
        text: str. The code; case, hyphens and blanks don't matter.

    Returns:
        int: how many answers are gone; None where no session has this code.
    """
    codes = connection.execute(select(sessions.c.session, sessions.c.withdrawal_code))
    session = {plain(code): session for session, code in codes}.get(plain(text))
    if session is None:
        return None
    gone = _erase(connection, session)
    values = {"withdrawn_at": now(), "tombstone": _tombstone(connection, text)}
    connection.execute(insert(withdrawals).values(values))
    return gone


def is_withdrawn(connection, text) -> bool:
    """Whether somebody withdrew with this code."""
    same = withdrawals.c.tombstone == _tombstone(connection, text)
    return connection.execute(select(withdrawals.c.id).where(same)).first() is not None


def request(connection, text, protocol) -> dict:
    """`withdraw` as the page asks for it; asking again changes nothing.

    Raises:
        Refusal: an unknown code, or answers that are anonymous by now.
    """
    day = protocol.retention.anonymized_on
    if day and date.today() >= day:
        raise Refusal(409, "anonymous", f"since {day}")
    if withdraw(connection, text) is None and not is_withdrawn(connection, text):
        raise Refusal(404, "unknown_code", "check its letters")
    return {}


def _tombstone(connection, code):
    salt = connection.execute(select(study.c.salt)).scalar_one()
    return seal(salt, f"withdrawn {plain(code)}")


def _erase(connection, session):
    """Deletes all rows of a session; returns how many answers there were."""
    query = delete(answers).where(answers.c.session == session)
    gone = connection.execute(query).rowcount
    for table in reversed(metadata.sorted_tables):
        if "session" in table.c:
            connection.execute(delete(table).where(table.c.session == session))
    return gone


def tombstones(store) -> Path:
    """The file of a database's tombstones: beside SQLite's file, else in the present folder."""
    return Path(f"{store.url.database}.withdrawn")


def synchronize(store) -> int:
    """Deletes again who has withdrawn, and brings the database and the file to the same state.

    Args:
        store: `study.survey.store.Store`.

    Returns:
        int: how many sessions were there again.

    Raises:
        ColorlibError: the file can't be read or written.
    """
    path = tombstones(store)
    try:
        with _file:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = dict(reversed(line.split()) for line in lines if len(line.split()) == 2)
            back, missing = store.write(_apply, kept)
            if missing:
                _append(path, [f"{moment} {stone}\n" for stone, moment in missing.items()])
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ColorlibError(
            f"{path}: withdrawals can't be kept there ({reason}); make it readable and writable"
        ) from None
    store.forget()
    return back


def _apply(connection, kept):
    """(how many sessions were there again, {tombstone: when} that the file lacks)."""
    known = dict(
        map(tuple, connection.execute(select(withdrawals.c.tombstone, withdrawals.c.withdrawn_at)))
    )
    known.pop(None, None)
    lost = [
        {"tombstone": stone, "withdrawn_at": moment}
        for stone, moment in kept.items()
        if stone not in known
    ]
    if lost:
        connection.execute(insert(withdrawals), lost)
    back = 0
    stones = {*known, *kept}
    if stones:
        salt = connection.execute(select(study.c.salt)).scalar_one()
        for session, code in connection.execute(
            select(sessions.c.session, sessions.c.withdrawal_code)
        ).all():
            if seal(salt, f"withdrawn {plain(code)}") in stones:
                _erase(connection, session)
                back += 1
    return back, {stone: when for stone, when in known.items() if stone not in kept}


def _append(path, lines):
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
