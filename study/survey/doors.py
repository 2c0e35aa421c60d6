"""Whether somebody may begin: the study is open, paused, full or over."""

from sqlalchemy import and_, func, or_, select

from colorlib import ColorlibError
from study import protocol as protocols
from study.survey import versions
from study.survey.store import ago, note, noted, now, sessions


def has_place(protocol, sha256):
    """A condition on `sessions`: the person has finished, or still may. Dropouts free their place.

    Args:
        protocol: `study.protocol.Protocol`.
        sha256: of the protocol as the database keeps it. Each protocol has places of its own.
    """
    goes_on = and_(
        sessions.c.started_at >= ago(protocol.resume.max_age_hours),
        sessions.c.superseded_at.is_(None),
    )
    return and_(
        sessions.c.protocol_sha256 == sha256, or_(sessions.c.finished_at.is_not(None), goes_on)
    )


def places_left(connection, protocol, sha256) -> int | None:
    """How many people may still begin; None without a quota."""
    if not protocol.entry.quota:
        return None
    taken = connection.execute(select(func.count()).where(has_place(protocol, sha256))).scalar_one()
    return max(protocol.entry.quota - taken, 0)


def closed(connection, protocol, sha256) -> str | None:
    """Why nobody may begin: `closed`, `paused` or `full`; None if they may."""
    day = protocol.retention.anonymized_on
    # The last day on which a session that begins now can go on: it shall not be cut off.
    if day and ago(-protocol.resume.max_age_hours)[:10] >= day.isoformat():
        return "closed"
    if noted(connection, "paused"):
        return "paused"
    return "full" if places_left(connection, protocol, sha256) == 0 else None


def check_invitations(connection, count):
    """Checks that so many more people can come by an invitation.

    Raises:
        ColorlibError: the protocol has no such way in, or the quota leaves no place for them.
    """
    row = versions.current(connection)
    protocol, _ = protocols.kept(row.content)
    if "invitation" not in protocol.entry.ways:
        raise ColorlibError(
            f"entry.ways is {', '.join(protocol.entry.ways)}: nobody could enter by an invitation; "
            "add it in a new version of the protocol"
        )
    left = places_left(connection, protocol, row.sha256)
    if left is not None and count > left:
        raise ColorlibError(
            f"entry.quota is {protocol.entry.quota} and leaves {left} places: invite no more "
            "people than that, or raise it in a new version of the protocol"
        )


def pause(connection):
    """From now on nobody begins; who has begun goes on."""
    if not noted(connection, "paused"):
        note(connection, "paused", now())


def resume(connection):
    """Opens a paused study again."""
    note(connection, "paused", None)
