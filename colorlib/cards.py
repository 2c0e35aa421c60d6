"""Presets: trained weights, each with a card that says where they come from.

A preset is a folder: `card.json`, `weights.weights.h5` and `manifest.csv.gz` (the photos that it
was trained on, by content hash). `train` leaves a run folder of the same shape, so that whatever
takes a preset's name takes the path of a run as well.
"""

import hashlib
import json
import os
from pathlib import Path

from colorlib import ASSETS, ColorlibError

DEFAULT_PRESET = "pyramid"
CARD, WEIGHTS, MANIFEST, SCORES = (
    "card.json",
    "weights.weights.h5",
    "manifest.csv.gz",
    "scores.csv",
)


def presets():
    """The names of the packaged presets, the default first: list of str."""
    names = sorted(path.parent.name for path in (ASSETS / "presets").glob("*/" + CARD))
    return sorted(names, key=lambda name: name != DEFAULT_PRESET)


def preset_folder(name=None):
    """The folder of a packaged preset, or of a run given by its path.

    Args:
        name: str, path or None (the default preset).

    Raises:
        ColorlibError: neither a preset nor a run folder.
    """
    if str(name) == "mse" and not Path(name).exists():
        raise ColorlibError("The preset 'mse' is called 'paper' now: it is the paper's network")
    packaged = ASSETS / "presets" / (name or DEFAULT_PRESET)
    for folder in (packaged, Path(name or DEFAULT_PRESET)):
        if (folder / CARD).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise ColorlibError(
        f"Unknown preset {str(name or DEFAULT_PRESET)!r}: must be one of {', '.join(presets())}, "
        f"or the folder of a training run ({CARD} and {WEIGHTS})"
    )


def load_card(name=None):
    """The card of a preset or run: dict."""
    return json.loads((preset_folder(name) / CARD).read_text(encoding="utf-8"))


def write_atomically(path, content):
    """Writes str or bytes so that a reader sees the old file or the new one, never half of it."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def write_card(folder, card):
    """Writes a card; lists of numbers stand on one line, so that it can be read and compared."""
    write_atomically(Path(folder) / CARD, _format(card) + "\n")


def _format(value, indent=0):
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(flat) + indent <= 100:
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        items = [
            f"{inner}{json.dumps(key, ensure_ascii=False)}: {_format(item, indent + 2)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"
    if all(isinstance(item, int | float) for item in value):
        return flat
    return "[\n" + ",\n".join(inner + _format(v, indent + 2) for v in value) + f"\n{' ' * indent}]"


def sha256(path):
    """The SHA-256 of a file's content: str."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
