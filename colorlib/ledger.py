"""The ledger of a folder: a record of what was colored into it, one row for each output."""

import io
import os
import sqlite3
from contextlib import closing, contextmanager

from colorlib import ColorlibError, files

LEDGER, TABLE = ".colorlib.sqlite", "colorlib.parquet"
_EXPORTED, _NOT_EXPORTED = 1, 2  # the ledger's user_version: whether all of it is in the table
COLUMNS = {
    "output": "TEXT PRIMARY KEY",  # below the ledger's folder
    "output_sha256": "TEXT",
    "output_size": "INTEGER",
    "output_modified": "INTEGER",  # ns since 1970
    "replaced_sha256": "TEXT",  # of what stood there before
    "source": "TEXT",
    "source_sha256": "TEXT",
    "source_size": "INTEGER",
    "source_modified": "INTEGER",
    "width": "INTEGER",
    "height": "INTEGER",
    "settings": "TEXT",
    "version": "TEXT",
    "seconds": "REAL",
    "notes": "TEXT",
    "error": "TEXT",
}


_OUTPUTS = "SELECT output FROM files WHERE output_sha256 IS NOT NULL"


class LedgerError(ColorlibError):
    """A ledger that was opened can't be read or written any more."""


class Ledger:
    """The record of a folder's outputs; None as folder keeps it in memory alone.

    One process at a time: another one that opens it gets a ColorlibError.
    """

    def __init__(self, folder):
        self.folder = folder
        path = ":memory:" if folder is None else folder / LEDGER
        try:
            self._database = sqlite3.connect(path, timeout=2)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            self._database.execute(f"CREATE TABLE IF NOT EXISTS files ({columns}) WITHOUT ROWID")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            self.exported = version != _NOT_EXPORTED
            # A write, which takes the lock.
            self._database.execute(f"PRAGMA user_version = {version or _EXPORTED}")
        except sqlite3.DatabaseError as error:
            if hasattr(self, "_database"):
                self._database.close()
            what = f"not a ledger ({error}); delete it"
            if isinstance(error, sqlite3.OperationalError):
                what = f"{error}; check the disk's space and the folder's permissions"
            if "locked" in str(error):
                what = "another colorlib is at work here; wait for it"
            raise ColorlibError(f"{path}: {what}") from None

    def close(self):
        self._database.close()

    def get(self, output):
        """The row of an output, by its name below the folder: dict, or None."""
        with self._told():
            rows = self._database.execute(
                "SELECT * FROM files WHERE output = ?", (files.utf8(output),)
            )
            row = rows.fetchone()
        return row and dict(zip(COLUMNS, row, strict=True))

    def outputs(self):
        """The names of all outputs that were written, below the folder: set of str."""
        return {name for (name,) in self._database.execute(_OUTPUTS)}

    def put(self, **row):
        """Writes the row of an output, in place of an earlier one."""
        self.put_all([row])

    def put_all(self, rows):
        """Writes rows in one transaction, each in place of an earlier one."""
        marks = ", ".join("?" * len(COLUMNS))
        values = [
            [files.utf8(v) if isinstance(v, str) else v for v in map(row.get, COLUMNS)]
            for row in rows
        ]
        with self._told(), self._database:
            self._database.executemany(f"INSERT OR REPLACE INTO files VALUES ({marks})", values)
            if self.exported:
                self._database.execute(f"PRAGMA user_version = {_NOT_EXPORTED}")
        self.exported = False

    def export(self):
        """Writes the ledger as a Parquet table beside it."""
        files.clear_parts([self.folder], 0)
        with self._told():
            rows = self._database.execute("SELECT * FROM files ORDER BY output").fetchall()
            files.write_atomically(self.folder / TABLE, as_parquet(rows))
            self._database.execute(f"PRAGMA user_version = {_EXPORTED}")
        self.exported = True

    @contextmanager
    def _told(self):
        """Makes one line of what hinders the ledger."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"{self.folder}: the record of what is done can't be written "
                f"({files.first_line(error)}); make room on the disk, then run the same command "
                "again"
            ) from None


def written(folder):
    """The names of all outputs that a folder's ledger tells of: set of str, empty without one."""
    path = folder / LEDGER
    if not os.path.exists(path):  # Of a folder that may not be entered, Path.exists would raise.
        return set()
    if os.access(folder, os.W_OK):
        with closing(Ledger(folder)) as ledger:
            return ledger.outputs()
    # Another user's, or on a disk that can't be written: then nobody is at work there.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as database:
        return {name for (name,) in database.execute(_OUTPUTS)}


def as_parquet(rows):
    """Rows, values in the order of COLUMNS, as a Parquet file: bytes."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    schema = pa.schema([(name, types[kind.split()[0]]) for name, kind in COLUMNS.items()])
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    buffer = io.BytesIO()
    parquet.write_table(pa.table(list(map(list, columns)), schema=schema), buffer)
    return buffer.getvalue()
