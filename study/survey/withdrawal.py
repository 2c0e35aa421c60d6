"""Who withdraws is deleted, and stays deleted when an old backup is restored.

Of each withdrawal a tombstone is kept: a hash of its code under the study's salt, which tells
nothing about the person or the answers. It stands in the database and in a file beside it, because
a restored backup brings back the withdrawn rows and has lost the tombstones in the database.
"""

import os
import threading

from sqlalchemy import func, insert, select

from colorlib import ColorlibError
from study.survey import retention
from study.survey.codes import grouped, plain
from study.survey.entry import seal
from study.survey.store import Refusal, answers, now, sessions, study, today, withdrawals

_file = threading.Lock()


def withdraw(connection, text):
    """Deletes the session with this code, and records that somebody withdrew.

    Args:
        connection: of a transaction that writes.
        text: str. The code; case, hyphens and blanks don't matter.

    Returns:
        int: how many answers are gone; None where no session has this code.
    """
    mine = select(sessions.c.session).where(sessions.c.withdrawal_code == grouped(plain(text)))
    session = connection.execute(mine).scalar_one_or_none()
    if session is None:
        return None
    gone = _erase(connection, session)
    values = {"withdrawn_at": now(), "tombstone": _tombstone(connection, text)}
    connection.execute(insert(withdrawals).values(values))
    return gone


def check(connection, text, protocol):
    """Refuses a code that nobody has; one that somebody has withdrawn with is good again.

    It only reads: whoever tries codes doesn't stand in the line of those who write.

    Raises:
        Refusal: an unknown code, or answers that are anonymous by now.
    """
    mine = sessions.c.withdrawal_code == grouped(plain(text))
    gone = withdrawals.c.tombstone == _tombstone(connection, text)
    found = select(sessions.c.session).where(mine), select(withdrawals.c.id).where(gone)
    if any(connection.execute(query).first() for query in found):
        return
    day = protocol.retention.anonymized_on
    if day and today() >= day:
        raise Refusal(409, "anonymous", f"since {day}")
    raise Refusal(404, "unknown_code", "check its letters")


def _tombstone(connection, code):
    salt = connection.execute(select(study.c.salt)).scalar_one()
    return seal(salt, f"withdrawn {plain(code)}")


def _erase(connection, session):
    """Deletes all rows of a session; returns how many answers there were."""
    query = select(func.count()).where(answers.c.session == session)
    gone = connection.execute(query).scalar_one()
    retention.delete_sessions(connection, sessions.c.session == session)
    return gone


def synchronize(store) -> int:
    """Deletes again who has withdrawn, and brings the database and the file to the same state.

    Nothing is written where nothing is to be done: commands work on a full disk, too.

    Args:
        store: `study.survey.store.Store`.

    Returns:
        int: how many sessions were there again.

    Raises:
        ColorlibError: the file can't be read or written.
    """
    path = store.tombstones
    try:
        with _file:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            mark = store.read(_mark)
            parts = [line.split() for line in lines if len(line.split()) > 1]
            kept = {stone: when for when, stone, *whose in parts if whose == [mark]}
            unmarked = {stone for _, stone, *whose in parts if not whose}  # by an older version
            known, back = store.read(_compare, {*kept, *unmarked})
            lost = {stone: when for stone, when in kept.items() if stone not in known}
            if lost or back:
                store.write(_restore, lost, back)
            missing = [
                f"{when} {stone} {mark}\n" for stone, when in known.items() if stone not in kept
            ]
            if missing:
                _append(path, missing)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ColorlibError(
            f"{path}: withdrawals can't be kept there ({reason}); make it readable and writable"
        ) from None
    if back:
        store.forget()
    return len(back)


def _mark(connection):
    """What tells the lines of this study from those of an earlier one under the same name."""
    return seal(connection.execute(select(study.c.salt)).scalar_one(), "withdrawals")[:16]


def _compare(connection, stones):
    """({tombstone: when} of the database, the sessions that are there again)."""
    rows = select(withdrawals.c.tombstone, withdrawals.c.withdrawn_at)
    known = dict(map(tuple, connection.execute(rows.where(withdrawals.c.tombstone.is_not(None)))))
    stones |= set(known)
    if not stones:
        return known, []
    salt = connection.execute(select(study.c.salt)).scalar_one()
    codes = connection.execute(select(sessions.c.session, sessions.c.withdrawal_code))
    back = [name for name, code in codes if seal(salt, f"withdrawn {plain(code)}") in stones]
    return known, back


def _restore(connection, lost, back):
    """Writes tombstones that a restored backup has lost, and deletes the sessions that it holds."""
    for stone, when in lost.items():
        connection.execute(insert(withdrawals).values(tombstone=stone, withdrawn_at=when))
    for session in back:
        _erase(connection, session)


def _append(path, lines):
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
