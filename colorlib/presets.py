"""Presets: trained weights, each with a card that says where they come from.

A preset is a folder: `card.json`, `weights.weights.h5` and `manifest.csv.gz` (the photos that it
was trained on, by content hash). `train` leaves a run folder of the same shape, so that whatever
takes a preset's name takes the path of a run as well.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path

from colorlib import ASSETS, ColorlibError
from colorlib.files import sha256, write_atomically

DEFAULT_PRESET = "pyramid"
CARD, WEIGHTS, MANIFEST, SCORES = (
    "card.json",
    "weights.weights.h5",
    "manifest.csv.gz",
    "scores.csv",
)


def preset_names():
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
        f"Unknown preset {str(name or DEFAULT_PRESET)!r}: must be one of "
        f"{', '.join(preset_names())}, or the folder of a training run ({CARD} and {WEIGHTS})"
    )


def load_card(name=None):
    """The card of a preset or run: dict."""
    return json.loads((preset_folder(name) / CARD).read_text(encoding="utf-8"))


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


def shrink_weights(source, target):
    """Stores a `.weights.h5` as float16, in half the bytes; Keras loads it into any precision."""
    import h5py

    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                group = new.require_group(name)
            else:
                half = item.dtype.kind == "f"
                group = new.create_dataset(name, data=item[()].astype("f2") if half else item[()])
            for key, value in item.attrs.items():
                group.attrs[key] = value

        for key, value in old.attrs.items():
            new.attrs[key] = value
        old.visititems(copy)


def package(run, target, evaluate=(), working_size=None, vividness=None):
    """Makes a preset of a training run: float16 weights, a card with scores, the manifest.

    Args:
        run: path of a finished run folder.
        target: path of the preset's folder, which becomes its name; made, or overwritten but for
            the card's `about`.
        evaluate: folders of photos to score on; each folder's name is the set's name.
        working_size: int or None. Short side at use, px; None keeps the run's.
        vividness: float in 0..1 or None. The default of that knob; None keeps the run's.

    Returns:
        dict: the card, with the metrics of each set in `results`, where there is that knob at a
        vividness of 0 as well. `scores.csv` beside it has a row per photo, set and method, at the
        default vividness.

    Raises:
        ColorlibError: `run` is no run folder, or a folder holds no photos.
    """
    run, target = preset_folder(run), Path(target)
    if target.resolve() == run.resolve():
        raise ColorlibError(f"{target}: is the run itself; give another folder for the preset")
    # Making a preset needs what coloring a photo doesn't: Keras, pandas, the metrics.
    import pandas as pd

    from colorlib import metrics, photos
    from colorlib.colorizer import Colorizer
    from colorlib.model import get_architecture

    sources = {Path(folder).name: photos.find(folder) for folder in evaluate}
    target.mkdir(parents=True, exist_ok=True)
    card = {**load_card(run), "name": target.name}
    with suppress(ColorlibError, ValueError, KeyError):  # What was written by hand stays.
        card = {"about": load_card(target)["about"], **card}
    card["working_size"] = working_size or card["working_size"]
    if vividness is not None:
        if not get_architecture(card["network"]).vividness or not 0 <= vividness <= 1:
            raise ColorlibError(
                "vividness must be in 0..1, of a network that has that knob. "
                f"Received: {vividness} for {card['network']}"
            )
        card["vividness"] = vividness
    shutil.copyfile(run / MANIFEST, target / MANIFEST)
    shrink_weights(run / WEIGHTS, target / WEIGHTS)
    card["weights_sha256"] = sha256(target / WEIGHTS)
    write_card(target, card)
    if sources:
        colorizer, tables, card["results"] = Colorizer.from_preset(target), [], {}
        for name, paths in sources.items():
            default = metrics.score(colorizer, paths)
            for method, table in default.items():
                tables.append(table.assign(set=name, method=method))
            at = {card.get("vividness"): default}
            if colorizer.architecture.vividness:
                at = {0: metrics.score(colorizer, paths, vividness=0, floors=default), **at}
            card["results"][name] = [
                {"vividness": value} | metrics.gains(scored) for value, scored in at.items()
            ]
        write_card(target, card)
        scores = pd.concat(tables)[["set", "method", *tables[0].columns[:-2]]]
        scores.to_csv(target / SCORES, index=False, float_format="%.6g", lineterminator="\n")
    return card
