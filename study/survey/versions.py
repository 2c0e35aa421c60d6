"""Which protocols a database holds, and which one is asked now.

Each session names the protocol that the person was shown, by its hash. A study that has begun can't
be changed under its version; another version goes on in the same database, and the export keeps the
answers to each apart.
"""

import json
import secrets

from sqlalchemy import delete, func, insert, select, update

from colorlib import ColorlibError
from study.survey.log import log
from study.survey.store import images, now, protocols, sessions, study

_TOLD = 6  # fields that differ, by name; of more, the number is told


def adopt(connection, protocol, stimuli, demo) -> str:
    """Claims a new database for this study; checks that an old one belongs to it.

    Args:
        connection: of a transaction that writes.
        protocol: `study.protocol.Protocol`.
        stimuli: `study.stimuli.Stimuli`.
        demo: bool. Demonstrations may change their protocol as they like: no answer counts.

    Returns:
        The study's salt.

    Raises:
        ColorlibError: the database belongs to another study or other stimuli, or people have agreed
            to a protocol of this version that reads otherwise.
    """
    row = connection.execute(select(study)).one_or_none()
    if row is None:
        row = _claim(connection, stimuli, demo)
    elif row.protocol_sha256 != protocol.sha256:
        _check_same_study(connection, protocol, row)
    differs = ["the stimuli"] if row.key_sha256 != stimuli.info["key_sha256"] else []
    differs += ["demonstration or not"] if row.demo != demo else []
    if differs:
        raise ColorlibError(
            f"the database was begun with another study ({', '.join(differs)}); give this one a "
            "--database of its own"
        )
    used = select(sessions.c.protocol_sha256).where(sessions.c.protocol_sha256.is_not(None))
    unused = protocols.c.sha256.not_in(used) & protocols.c.anonymized_at.is_(None)
    connection.execute(delete(protocols).where(unused))  # nobody has agreed to them
    kept = select(protocols).where(protocols.c.sha256 == protocol.sha256)
    if connection.execute(kept).one_or_none() is None:
        if not demo:
            _check_version(connection, protocol)
        values = {name: getattr(protocol, name) for name in ("sha256", "name", "version")}
        values |= {"content": protocol.content, "adopted_at": now()}
        connection.execute(insert(protocols).values(values))
    connection.execute(update(study).values(protocol_sha256=protocol.sha256))
    return row.salt


def _claim(connection, stimuli, demo):
    values = {"id": 1, "salt": secrets.token_hex(32), "created_at": now(), "demo": demo}
    connection.execute(insert(study).values(values | {"key_sha256": stimuli.info["key_sha256"]}))
    names = [column.name for column in images.columns]
    rows = stimuli.table[names].to_dict("records")
    connection.execute(insert(images), [row | {"method": row["method"] or None} for row in rows])
    return connection.execute(select(study)).one()


def _check_same_study(connection, protocol, row):
    query = select(protocols.c.name).where(protocols.c.sha256 == row.protocol_sha256)
    name = connection.execute(query).scalar_one_or_none()
    if name not in (None, protocol.name):
        raise ColorlibError(
            f"the database was begun with another study (protocol {name}, not {protocol.name}); "
            "give this one a --database of its own"
        )


def _check_version(connection, protocol):
    """Refuses another protocol under a version that people have agreed to; tells of a new one."""
    people = select(func.count()).where(sessions.c.protocol_sha256 == protocols.c.sha256)
    query = select(protocols.c.version, protocols.c.content, people.scalar_subquery())
    for version, content, count in connection.execute(query):
        if version == protocol.version:
            fields = differences(json.loads(content), json.loads(protocol.content))
            more = f" and {len(fields) - _TOLD} more" if len(fields) > _TOLD else ""
            raise ColorlibError(
                f"the database holds {count} sessions of people who agreed to version {version} of "
                f"{protocol.name} with other values of {', '.join(fields[:_TOLD])}{more}. Restore "
                "them; or, if the change is meant, give the protocol another `version`: it goes on "
                "in this database, and the export keeps the versions apart"
            )
        log.info("%s sessions of version %s stay apart from those to come", count, version)


def differences(one, other, at=()) -> list[str]:
    """The fields, in dots, in which two contents differ."""
    if type(one) is type(other) and isinstance(one, dict | list):
        keys = (
            sorted(one.keys() | other.keys())
            if isinstance(one, dict)
            else range(max(len(one), len(other)))
        )
        inside = [(_at(one, key), _at(other, key), (*at, str(key))) for key in keys]
        return [field for part in inside for field in differences(*part)]
    return [] if one == other else [".".join(at)]


def _at(content, key):
    if isinstance(content, dict):
        return content.get(key)
    return content[key] if key < len(content) else None


def current(connection):
    """The row of `protocols` that is asked now.

    Raises:
        ColorlibError: no server has ever finished its start with this database.
    """
    query = select(protocols).join(study, study.c.protocol_sha256 == protocols.c.sha256)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise ColorlibError("the database holds no protocol; `python -m study serve` makes it")
    return row


def mark(store):
    """Marks sessions that name no protocol with the current one.

    They were begun by a server of an older version that went on after its database had been brought
    to a newer schema, so under the protocol of then.
    """
    bare = sessions.c.protocol_sha256.is_(None)
    if store.read(lambda connection: connection.execute(select(sessions).where(bare)).first()):
        asked = select(study.c.protocol_sha256).scalar_subquery()
        change = update(sessions).where(bare).values(protocol_sha256=asked)
        store.write(lambda connection: connection.execute(change))


def used(connection) -> list:
    """The rows of `protocols` under which there are sessions, else the current one; oldest first.

    Raises:
        ColorlibError: no server has ever finished its start with this database.
    """
    theirs = select(sessions.c.protocol_sha256)
    query = select(protocols).where(protocols.c.sha256.in_(theirs))
    return connection.execute(query.order_by(protocols.c.adopted_at)).all() or [current(connection)]
