"""Small things that several modules do with files and errors."""

import hashlib
import os
import secrets
import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import platformdirs

from colorlib import ColorlibError


def cache_folder():
    """The folder that COLORLIB_CACHE names, or the user's cache folder: Path."""
    return Path(os.environ.get("COLORLIB_CACHE") or platformdirs.user_cache_dir("colorlib"))


def sha256(path):
    """The SHA-256 of a file's content: str."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_of(path):
    """A new path beside a file's, with its suffix, for what becomes the file when it is whole."""
    # Hidden, so that a search for photos passes it by, and short, as names have a limit.
    suffix = ".weights.h5" if path.name.endswith(".weights.h5") else path.suffix
    return path.with_name(f".{secrets.token_hex(8)}.part{suffix}")


def write_atomically(path, content):
    """Writes a file so that a reader sees the old one or the new one, never half of it.

    Args:
        path: path.
        content: str, bytes, or a callable that is given a temporary path, with the same suffix, and
            writes it.
    """
    path = Path(path)
    temporary = part_of(path)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # A power cut must not leave the new name without the content.
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole(path, what):
    """Makes one line of what is wrong with a file of ours that is read meanwhile.

    Args:
        path: path of the file.
        what: str. What it is, such as "card".

    Raises:
        ColorlibError: it is damaged. (One that may not be read stays an OSError.)
    """
    try:
        yield
    except ColorlibError:
        raise
    except Exception as error:  # JSON, gzip and NumPy have errors of their own.
        if isinstance(error, OSError) and error.errno:
            raise
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ColorlibError(f"{path}: damaged {what} ({reason}); restore the file") from None


@contextmanager
def alone(folder):
    """While it is entered, other processes that enter it for this folder wait.

    A file beside the folder, with `.lock` behind its name, stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(folder.name + ".lock")
    path.touch()  # If that is forbidden, the error names the file: SQLite's doesn't.
    # A lock of SQLite's ends with its process, however that ends.
    with closing(sqlite3.connect(path, timeout=1)) as lock:
        while not lock.in_transaction:  # While SQLite waits, Ctrl-C does nothing.
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    break  # No locks, as on some network drives: several make the same files.
        yield


def utf8(text):
    """A text of a name, which may hold any bytes, with those written out that are no UTF-8: str."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_line(error):
    """The first line of what an error says, or its type where it says nothing: str."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def clear_parts(folders, age):
    """Removes the parts (`part_of`) that killed runs have left, at least `age` seconds ago."""
    for folder in folders:
        for path in folder.glob(".*.part.*"):
            name = path.name.split(".")[1]
            with suppress(OSError):  # It may be another process', and gone.
                fresh = time.time() - path.stat().st_mtime < age
                if len(name) == 16 and set(name) <= set("0123456789abcdef") and not fresh:
                    path.unlink()
