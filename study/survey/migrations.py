"""The schema's version in a database, and the way from an older one to this one.

To change the schema: change the tables in `store.py`, add 1 to `VERSION`, and give the new number a
step if rows must be filled in, or a column or table must go. New tables, and new columns that are
nullable or have a `server_default`, need no step: they are added before the steps run. A step is
written in SQL, because the tables of `store.py` will have changed when it runs.
"""

import hashlib
import json
import secrets

from sqlalchemy import inspect, text
from sqlalchemy.schema import CreateColumn

VERSION = 3


def version(connection) -> int:
    """The version of a database's schema; 0 where there is no study. The first kept no number."""
    if not connection.dialect.has_table(connection, "study"):
        return 0
    if not connection.dialect.has_table(connection, "meta"):
        return 1
    number = connection.execute(text("SELECT value FROM meta WHERE name = 'schema'"))
    return int(number.scalar_one())


def migrate(connection, metadata) -> int:
    """Makes the tables of a new database, or brings an older one to `VERSION`, in a transaction.

    Args:
        connection: of a transaction that writes.
        metadata: sqlalchemy.MetaData. The tables of `store.py`.

    Returns:
        int: the version that the database had, 0 if it was empty.
    """
    if connection.dialect.name == "postgresql":  # SQLite's writers wait for each other anyway
        connection.execute(text("SELECT pg_advisory_xact_lock(20171203)"))
    had = version(connection)
    if had >= VERSION:
        return had
    metadata.create_all(connection)
    if had:
        _add_columns(connection, metadata)
        for number in range(had + 1, VERSION + 1):
            STEPS.get(number, lambda _: None)(connection)
    connection.execute(text("DELETE FROM meta WHERE name = 'schema'"))
    new = {"name": "schema", "value": str(VERSION)}
    connection.execute(text("INSERT INTO meta (name, value) VALUES (:name, :value)"), new)
    return had


def _add_columns(connection, metadata):
    """Adds what the tables of before lack: columns, then indexes."""
    there = inspect(connection)
    for table in metadata.sorted_tables:
        known = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                words = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {words}")
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def _keep_protocols(connection):
    """Schema 2: each protocol is kept by its hash.

    Schema 1 kept one protocol, whose texts and dates could be changed while people took part. What
    it held last is the best that is known of what they agreed to.
    """
    row = connection.execute(text("SELECT protocol, created_at FROM study")).one_or_none()
    if row is not None:
        content = json.loads(row.protocol)
        kept = json.dumps(content, sort_keys=True, ensure_ascii=False, indent=1) + "\n"
        values = {"sha256": hashlib.sha256(kept.encode()).hexdigest(), "content": kept}
        values |= {name: content[name] for name in ("name", "version")} | {"at": row.created_at}
        for statement in (
            "INSERT INTO protocols (sha256, name, version, content, adopted_at) "
            "VALUES (:sha256, :name, :version, :content, :at)",
            "UPDATE sessions SET protocol_sha256 = :sha256",
            "UPDATE study SET protocol_sha256 = :sha256",
        ):
            connection.execute(text(statement), values)
    connection.execute(text("ALTER TABLE study DROP COLUMN protocol"))
    # Of an invitation's use only the day is kept: the time would tell whose answers these are.
    connection.execute(text("UPDATE invitations SET used_at = substr(used_at, 1, 10)"))


def _keep_less(connection):
    """Schema 3: what is anonymous is out of its order, too, and no used invitation is known.

    Where the days of anonymization have come already, they are carried out once more, right after
    this: times that were moved stay as they are. Sessions that may go on name their invitation.
    """
    query = "SELECT used_at FROM invitations WHERE used_at IS NOT NULL ORDER BY used_at"
    used = connection.execute(text(query))
    rows = [{"name": secrets.token_hex(32), "day": row.used_at} for row in used.all()]
    connection.execute(text("DELETE FROM invitations WHERE used_at IS NOT NULL"))
    if rows:
        new = "INSERT INTO invitations (code_hash, created_at, used_at) VALUES (:name, :day, :day)"
        connection.execute(text(new), rows)
    connection.execute(
        text(
            "UPDATE protocols SET anonymized_at = NULL "
            "WHERE sha256 IN (SELECT protocol_sha256 FROM sessions)"
        )
    )


STEPS = {2: _keep_protocols, 3: _keep_less}
