"""Where answers are kept: SQLite by default, PostgreSQL by URL.

One thread writes. It takes everything that waits in its queue, executes it in one transaction, and
reports "stored" only after the commit. So many people share one flush to the disk, and nobody gets
a confirmation that a power cut could undo. If an operation is refused, the whole batch is rolled
back and repeated with a savepoint for each operation, so that the others are not affected. Refusals
are rare, and savepoints would double the round trips to PostgreSQL.
"""

import queue
import threading
import time
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    exc,
    false,
    insert,
    select,
)
from sqlalchemy.engine import make_url

from colorlib import ColorlibError
from study.survey import migrations
from study.survey.log import line, log

# How many operations share a commit at most: enough for every visitor of a busy second.
BATCH = 256
_PATIENCE = 30  # s, for others who write
_CONNECTIONS = 40  # as many as the server has threads that read

# A change of these tables is also one of `migrations.py`, which says how.
metadata = MetaData()


def _table(name, *columns):
    return Table(name, metadata, *columns)


def _session(**options):
    return Column("session", ForeignKey("sessions.session"), nullable=False, **options)


# What the whole study has once, by name: the schema's version, `paused` (since when), `last_error`.
meta = _table(
    "meta",
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
# Every protocol under which people have agreed to take part, as they were shown it. `sha256` is the
# hash of `content`; the two last columns say when what it promises was carried out.
protocols = _table(
    "protocols",
    Column("sha256", String(64), primary_key=True),
    Column("name", String(60), nullable=False),
    Column("version", Text, nullable=False),
    Column("content", Text, nullable=False),  # JSON
    Column("adopted_at", String(27), nullable=False),
    Column("anonymized_at", String(27)),
    Column("deleted_at", String(27)),
)
# One row: what this database belongs to. `salt` makes hashes of panel ids and signs cookies.
study = _table(
    "study",
    Column("id", Integer, primary_key=True),
    Column("salt", String(64), nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("demo", Boolean, nullable=False),
    Column("key_sha256", String(64), nullable=False),
    Column("protocol_sha256", String(64)),  # of the protocol that is asked now
)
# The sealed key; what a photo is stands here and nowhere else on the server's way to a browser.
images = _table(
    "images",
    Column("stimulus", String(64), primary_key=True),
    Column("scene", String(64), nullable=False),
    Column("version", String(16), nullable=False),
    Column("method", String(64)),
    Column("source", Text),
    Column("sha256", String(64)),
    Column("width", Integer),
    Column("height", Integer),
)
invitations = _table(
    "invitations",
    Column("code_hash", String(64), primary_key=True),  # of a used one: a random name
    Column("created_at", String(27), nullable=False),
    Column("used_at", String(27)),
)
sessions = _table(
    "sessions",
    Column("session", String(16), primary_key=True),
    Column("participant", String(16), nullable=False, index=True),
    Column("cookie_hash", String(64), nullable=False, index=True),
    Column("panel_hash", String(64), index=True),
    Column("invitation_hash", String(64), index=True),  # until the end, to go on elsewhere
    Column("entry", String(16), nullable=False),
    Column("consent_version", String(4000), nullable=False),
    Column("protocol_sha256", String(64), index=True),  # what the person was shown and agreed to
    Column("list", Integer, nullable=False, index=True),
    Column("repeat", Boolean, nullable=False),
    Column("panel_repeat", Boolean, nullable=False, server_default=false()),
    Column("superseded_at", String(27)),
    Column("started_at", String(27), nullable=False),
    Column("finished_at", String(27)),
    Column("withdrawal_code", String(32), nullable=False, unique=True),
)
trials = _table(
    "trials",
    _session(primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("stimulus", ForeignKey("images.stimulus"), nullable=False),
    Column("second_stimulus", ForeignKey("images.stimulus")),
)
# What a browser sees of a photo: a random name, good for one session.
tokens = _table(
    "tokens",
    Column("token", String(32), primary_key=True),
    _session(index=True),
    Column("trial", Integer, nullable=False),
    Column("place", Integer, nullable=False),  # 0, or 1 for the second photo of a pair
    Column("stimulus", ForeignKey("images.stimulus"), nullable=False),
)
# Each time that a trial's photos were released to a browser, by the server's clock.
presentations = _table(
    "presentations",
    _session(primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("id", String(36), primary_key=True),  # made by the browser: a repeated request is one
    Column("released_at", String(27), nullable=False),
)
answers = _table(
    "answers",
    Column("id", String(36), primary_key=True),  # made by the browser
    _session(),
    Column("trial", Integer, nullable=False),
    Column("answer", String(16), nullable=False),
    Column("response_ms", Float, nullable=False),
    Column("exposure_first_ms", Float),
    Column("exposure_second_ms", Float),
    Column("viewport_width", Integer, nullable=False),
    Column("viewport_height", Integer, nullable=False),
    Column("pixel_ratio", Float, nullable=False),
    Column("zoom", Float, nullable=False),
    Column("image_width_css", Float, nullable=False),
    Column("px_per_mm", Float),
    Column("focus_lost_ms", Float),
    Column("shown_at", String(27), nullable=False),  # by the browser's clock
    Column("received_at", String(27), nullable=False),
    UniqueConstraint("session", "trial"),
)
replies = _table(
    "replies",
    _session(primary_key=True),
    Column("question", String(64), primary_key=True),
    Column("value", String(64), nullable=False),
)
# Somebody withdrew, and when; nothing that tells who. `tombstone` is a salted hash of the code.
withdrawals = _table(
    "withdrawals",
    Column("id", Integer, primary_key=True),
    Column("withdrawn_at", String(27), nullable=False),
    Column("tombstone", String(64), index=True),
)


class Unavailable(ColorlibError):
    """The database was not read, or did not store what it was given; trying again may help."""


def clock() -> datetime:
    """The time in UTC; every time and day of a study comes from here."""
    return datetime.now(UTC)


def today() -> date:
    return clock().date()


class Refusal(Exception):
    """A request that is not granted.

    Args:
        status: int. HTTP's code.
        error: str. One word that the page understands.
        detail: str. For whoever reads the reply.
    """

    def __init__(self, status, error, detail=""):
        super().__init__(error)
        self.status, self.error, self.detail = status, error, detail


def now() -> str:
    """The time in UTC as ISO 8601 with milliseconds, as every column keeps it."""
    return ago(0)


def ago(hours) -> str:
    """The time so many hours ago, in the same form."""
    return _iso(clock() - timedelta(hours=hours))


# Columns of times that belong to a session.
TIMES = ("started_at", "finished_at", "superseded_at", "released_at", "received_at", "shown_at")


def since_midnight(moment, started_at) -> str:
    """A time of a session, moved so that the session began at midnight of its day.

    A panel knows when each of its people came: by the hour, it could tell whose answers are whose.
    """
    start = datetime.fromisoformat(started_at)
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        moved = datetime.fromisoformat(moment) - (start - midnight)
    except (ValueError, OverflowError):  # A browser may have sent a time that there is not.
        moved = midnight
    return _iso(moved)


def _iso(moment):
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def note(connection, name, value):
    """Keeps a value of the whole study; None removes it."""
    connection.execute(delete(meta).where(meta.c.name == name))
    if value is not None:
        connection.execute(insert(meta).values(name=name, value=value))


def noted(connection, name):
    """The value that was kept by `note`, or None."""
    return connection.execute(select(meta.c.value).where(meta.c.name == name)).scalar_one_or_none()


def url_of(database):
    """SQLAlchemy's URL for a database given by URL, or by the path of a SQLite file.

    Raises:
        ColorlibError: not a URL, or of another database than SQLite or PostgreSQL.
    """
    text = str(database)
    try:
        url = make_url(text if "://" in text else f"sqlite:///{text}")
    except exc.ArgumentError:
        raise ColorlibError(f"{text}: not the URL of a database; see study/README.md") from None
    drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
    if url.get_backend_name() not in drivers:
        raise ColorlibError(
            f"{url.render_as_string()}: give a SQLite file, sqlite:///FILE or "
            "postgresql://USER@HOST/NAME"
        )
    return url.set(drivername=drivers[url.get_backend_name()])


def _engine(url):
    if url.get_backend_name() != "sqlite":
        # Without `hide_parameters`, an error's text would hold what somebody has sent.
        return create_engine(url, pool_size=_CONNECTIONS, hide_parameters=True)
    options = {"timeout": _PATIENCE, "check_same_thread": False}
    engine = create_engine(url, connect_args=options, pool_size=_CONNECTIONS, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _set_up(connection, _record):
        connection.isolation_level = None  # Python's driver would begin transactions on its own
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # WAL's default flushes at checkpoints only
            "foreign_keys=ON",
            "secure_delete=ON",  # who withdraws is overwritten, not just unlinked
            "temp_store=MEMORY",  # a copy of answers would stay in a temporary file's blocks
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection):
        # A transaction that reads first and writes then fails at once, whatever the timeout, when
        # somebody else wrote between; one that takes the lock at its start waits its turn.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Store:
    """A database with its writing thread.

    Operations are functions whose first argument is a connection. What they raise reaches their
    caller, and then nothing of theirs is stored.

    Args:
        database: a URL (`sqlite:///FILE`, `postgresql://...`) or the path of a SQLite file.
        create: bool. Whether missing tables are created.
        newer: bool. Whether a database that a newer version of this program has made is opened,
            too. An older one is brought to the present schema.

    Raises:
        ColorlibError: the database can't be opened, holds no study while `create` is false, or is
            newer than this program.
    """

    def __init__(self, database, create=True, newer=False):
        self.url = url_of(database)
        self.name = self.url.render_as_string()  # without the password
        if not create and self.url.get_backend_name() == "sqlite":
            self._check_file()
        self._engine = _engine(self.url)
        self._writer = self._engine.execution_options(writes=True)
        self._reader = self._single = self._engine
        if self.url.get_backend_name() == "postgresql":
            # One view of all tables, as SQLite's is; and a journey less where one query will do.
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
            self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            self._check_schema(create, newer)
        except exc.DBAPIError as error:
            raise ColorlibError(
                f"{self.name}: can't be opened ({line(error)}); check the address and its rights"
            ) from None
        self.unforgotten = False
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def _check_file(self):
        if not Path(self.url.database or "").is_file():
            raise ColorlibError(f"{self.url.database}: no such database; check --database")

    def _check_schema(self, create, newer):
        with self._engine.connect() as connection:
            found = migrations.version(connection)
        if not found and not create:
            raise ColorlibError(f"{self.name}: holds no study; `python -m study serve` makes it")
        if found > migrations.VERSION:
            known = f"schema {found}; this program knows {migrations.VERSION}"
            if not newer:
                raise ColorlibError(
                    f"{self.name}: was made by a newer version of this program ({known}): update "
                    "it; `export` and `withdraw` work as it is"
                )
            log.warning("%s: was made by a newer version of this program (%s)", self.name, known)
        if found < migrations.VERSION:
            with self._writer.begin() as connection:
                found = migrations.migrate(connection, metadata)
            if found:
                log.warning(
                    "%s: brought from schema %d to %d", self.name, found, migrations.VERSION
                )

    def read(self, operation, *arguments):
        """Runs an operation that only reads; returns what it returns.

        Raises:
            Unavailable: the database can't be read; or what the operation raised.
        """
        return self._read(self._reader, operation, arguments)

    def look_up(self, operation, *arguments):
        """The same for an operation of one query, which needs no transaction."""
        return self._read(self._single, operation, arguments)

    def _read(self, engine, operation, arguments):
        for attempt in (1, 2):
            try:
                with engine.connect() as connection:
                    return operation(connection, *arguments)
            except exc.DBAPIError as error:
                # The database was started anew: the connections of before are useless, and gone.
                if attempt == 2 or not error.connection_invalidated:
                    log.error("the database can't be read: %s", line(error))
                    raise Unavailable(f"{self.name}: can't be read ({line(error)})") from None

    @property
    def tombstones(self) -> Path:
        """The file that keeps withdrawals: beside SQLite's file, else in the present folder."""
        return Path(f"{self.url.database}.withdrawn")

    def submit(self, operation, *arguments) -> Future:
        """Queues an operation that writes; the future is done when it is safely stored.

        Its exception is what the operation raised, or `Unavailable`.
        """
        future = Future()
        future.set_running_or_notify_cancel()  # whoever stops listening can't take it back
        self._queue.put((future, operation, arguments))
        return future

    def write(self, operation, *arguments):
        """Runs an operation that writes, and waits until it is safely stored."""
        return self.submit(operation, *arguments).result()

    def forget(self, tries=1):
        """Overwrites what SQLite's log still holds of deleted rows.

        It can't while somebody reads, and nobody writes while it waits: so it waits shortly. The
        server tries again (`unforgotten`); a command, which ends, is given several `tries`.
        """
        if self.url.get_backend_name() != "sqlite":
            return
        with closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("PRAGMA busy_timeout = 100")
            for number in range(tries):
                time.sleep(0.5 if number else 0)
                (busy, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self.unforgotten = bool(busy)
                if not busy:
                    break
            cursor.execute(f"PRAGMA busy_timeout = {1000 * _PATIENCE}")

    def close(self):
        """Waits for what is queued, then closes the database."""
        self._queue.put(None)
        self._thread.join()
        self._engine.dispose()

    def _work(self):
        open_ = True
        while open_:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            open_ = None not in batch
            batch = [item for item in batch if item is not None]
            if batch:
                self._commit(batch)

    def _commit(self, batch):
        try:
            outcomes = self._outcomes(batch)
        except Exception as error:  # a full disk, a lost connection: nothing of the batch is stored
            log.error("the database has taken nothing: %s", line(error))
            for future, *_ in batch:
                future.set_exception(
                    Unavailable(f"{self.name}: has taken nothing ({line(error)}); nothing changed")
                )
            return
        for (future, *_), (result, error) in zip(batch, outcomes, strict=True):
            future.set_exception(error) if error else future.set_result(result)

    def _outcomes(self, batch):
        """Does a batch in one transaction; [(what an operation returned, what it raised)]."""
        try:
            with self._writer.begin() as connection:
                return [(operation(connection, *given), None) for _, operation, given in batch]
        except exc.OperationalError:
            raise  # nobody's fault; SQLite has undone everything on a full disk, savepoints too
        except Exception:  # Savepoints show whose fault it is.
            with self._writer.begin() as connection:
                return [_outcome(connection, *item[1:]) for item in batch]


def _outcome(connection, operation, arguments):
    """(what the operation returned, None) or (None, what it raised), with its own rows undone."""
    try:
        with connection.begin_nested():
            return operation(connection, *arguments), None
    except exc.DBAPIError as error:
        if error.connection_invalidated or isinstance(error, exc.OperationalError):
            raise  # not this operation's fault
        log.error("an operation was not stored: %s", line(error))
        return None, Unavailable(line(error))
    except Exception as error:
        return None, error
