"""Folders that appear complete or not at all."""

import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path

from colorlib import ColorlibError


def check_new(folder):
    """Raises a ColorlibError if something is there already: nothing is ever replaced."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ColorlibError(f"{folder}: is not empty; give a new folder, or empty this one")


@contextmanager
def new_folder(folder):
    """Yields an empty folder beside `folder`; it is moved there if the block succeeds.

    Raises:
        ColorlibError: `folder` exists and is not empty, or it can't be written.
    """
    folder = Path(folder).absolute()
    check_new(folder)
    if folder == Path.cwd():
        raise ColorlibError(f"{folder}: is the present folder; give a new one")
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if folder.is_dir():
            folder.rmdir()
        os.replace(part, folder)
    except OSError as error:
        raise ColorlibError(f"{folder}: could not be written ({error.strerror})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
