"""Files by path or by address: this machine's disks, and the stores that fsspec opens.

An address has a scheme (`s3://bucket/name`); what has none is a path of this machine.
"""

import hashlib
import os
import shutil
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from colorlib import ColorlibError, archive, files

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")  # as stores name it


def remote(address):
    """Whether an address is one, and no path of this machine."""
    return "://" in address


def store(address):
    """fsspec's file system of an address or path.

    Raises:
        ColorlibError: nothing opens it; the message names the package that would.
    """
    import fsspec

    try:
        return fsspec.filesystem(address.split("://")[0] if remote(address) else "file")
    except (ImportError, ValueError, TypeError) as error:
        raise ColorlibError(f"{address}: {files.first_line(error)}") from None


def absolute(path):
    """The one name of a file or folder among those that lead to it: an address, or a path here."""
    path = os.fspath(path)
    if not remote(path):
        return os.path.abspath(path)
    from fsspec.implementations.local import LocalFileSystem

    system = store(path)
    name = system._strip_protocol(path)
    if isinstance(system, LocalFileSystem):
        return os.path.abspath(name)
    return system.unstrip_protocol(name.strip("/"))


def listing(folder):
    """What lies below an address: {name: stamp}; the name is empty where it is itself a file.

    A stamp is (size, time of the last change in ns since 1970).
    """
    system = store(folder)
    root = system._strip_protocol(folder).rstrip("/")
    system.invalidate_cache()
    try:
        found = system.find(folder, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # Each store has errors of its own.
        raise ColorlibError(f"{folder}: {files.first_line(error)}") from None
    return {name[len(root) :].lstrip("/"): _stamp(info) for name, info in found.items()}


def stamp(address):
    """The stamp of one file, or None if there is none."""
    if not remote(address):
        return archive.fingerprint(address)
    with suppress(FileNotFoundError):
        return _stamp(store(address).info(address))


def _stamp(info):
    # A time that is never met again, where a store tells none: the content then decides.
    when = next((info[key] for key in _TIMES if info.get(key)), time.time())
    when = datetime.fromisoformat(when) if isinstance(when, str) else when
    when = when.timestamp() if isinstance(when, datetime) else when
    return info["size"], int(when * 1e9)


def sha256(address):
    """The SHA-256 of a file's content: str, or None if there is no file."""
    with suppress(FileNotFoundError), store(address).open(address, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(address):
    """A file's content: bytes, or None if there is no file."""
    with suppress(FileNotFoundError):
        return store(address).cat_file(address)


def put(address, content):
    """Writes a file, whole or not at all: bytes, or a copy of the file at a Path."""
    copied = isinstance(content, Path)
    if remote(address):
        system = store(address)
        system.put_file(str(content), address) if copied else system.pipe_file(address, content)
    else:
        os.makedirs(os.path.dirname(address), exist_ok=True)
        files.write_atomically(
            address, (lambda part: shutil.copyfile(content, part)) if copied else content
        )


def remove(address):
    """Removes a file, or a folder with all that is in it, if it is there."""
    with suppress(FileNotFoundError):
        store(address).rm(address, recursive=True)
