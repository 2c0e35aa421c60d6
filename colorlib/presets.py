"""Presets: trained weights, each with a card that says where they come from.

A preset is a folder: `card.json`, `weights.weights.h5` and `manifest.csv.gz` (the photos that it
was trained on, by content hash). `train` leaves a run folder of the same shape, so that whatever
takes a preset's name takes the path of a run as well.
"""

import json
import shutil
import tempfile
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path

from colorlib import ASSETS, ColorlibError, __version__
from colorlib.files import sha256, whole, write_atomically

DEFAULT_PRESET = "pyramid"
CARD = "card.json"
WEIGHTS = "weights.weights.h5"
CONFIG = "config.json"  # of a run
MANIFEST = "manifest.csv.gz"
SCORES = "scores.parquet"
SIZES = range(32, 2049)  # working sizes: short sides that a network may be given, px
PRECISIONS = ("float32", "mixed_bfloat16")  # what a network is trained and run in
# Of every card.
_KEYS = (
    *("name", "network", "working_size"),
    *("embedding.backbone", "colors.ab_counts", "config.epochs"),
)


def preset_names():
    """The names of the packaged presets, the default first: list of str."""
    names = sorted(path.parent.name for path in (ASSETS / "presets").glob("*/" + CARD))
    return sorted(names, key=lambda name: name != DEFAULT_PRESET)


def preset_folder(name=None):
    """The folder of a packaged preset, or of a run given by its path.

    Args:
        name: str, path or None (the default preset). A str that is a packaged preset's name means
            that one; `"./paper"`, or a Path, is a folder.

    Raises:
        ColorlibError: neither a preset nor a run folder, or one that lacks a file.
    """
    if str(name) == "mse" and not Path(name).exists():
        raise ColorlibError("The preset 'mse' is called 'paper' now: it is the paper's network")
    name = name or DEFAULT_PRESET
    packaged = isinstance(name, str) and name in preset_names()
    folder = ASSETS / "presets" / name if packaged else Path(name)
    missing = [file for file in (CARD, WEIGHTS) if not (folder / file).is_file()]
    if not missing:
        return folder
    if len(missing) == 1:
        raise ColorlibError(f"{folder}: its {missing[0]} is missing; restore it, or train again")
    raise ColorlibError(
        f"Unknown preset {str(name)!r}: must be one of "
        f"{', '.join(preset_names())}, or the folder of a training run ({CARD} and {WEIGHTS})"
    )


def load_card(name=None):
    """The card of a preset or run: dict.

    Raises:
        ColorlibError: no such preset or run, or a damaged card.
    """
    path = preset_folder(name) / CARD
    with whole(path, "card"):
        card = json.loads(path.read_text(encoding="utf-8"))
        for names in _KEYS:
            reduce(getitem, names.split("."), card)
    return card


def manifest(name=None):
    """The path of the list of a preset's photos. Presets of the same photos share one."""
    data = load_card(name)["data"]
    for other in (name, *preset_names()):
        path = preset_folder(other) / MANIFEST
        if path.exists() and load_card(other)["data"] == data:
            return path
    raise ColorlibError(f"{preset_folder(name)}: its {MANIFEST} is missing; restore the folder")


def made_by(name=None):
    """What a photo's metadata says of the program that made its colors: str."""
    return f"colorlib {__version__}, preset {load_card(name)['name']}"


def default_vividness(card):
    """The vividness on a card: float; None where the network gives no distribution."""
    if "vividness" not in card:
        from colorlib.model import get_architecture  # takes seconds, and most cards do without

        return 0.0 if get_architecture(card["network"]).vividness else None
    return card["vividness"]


def vividness(name, default, value):
    """The vividness that a preset uses.

    Args:
        name: str. The preset's.
        default: float or None. Its own; None if it gives one color and no distribution.
        value: float or None. What is asked for.

    Returns:
        float in 0..1; 0 for a preset without that knob.

    Raises:
        ColorlibError: a value out of range, or one for a preset without that knob.
    """
    if default is None and value is not None:
        raise ColorlibError(
            f"{name} gives one color and no distribution, so it has no vividness: "
            "leave it out, or choose a preset of the network pyramid"
        )
    value = (default or 0.0) if value is None else value
    if not 0 <= value <= 1:
        raise ColorlibError(f"vividness must be in 0..1. Received: {value}")
    return float(value)


def write_card(folder, card):
    """Writes a card; what fits on a line, and a list of numbers, stands on one line."""
    write_atomically(Path(folder) / CARD, _format(card) + "\n")


def _format(value, indent=0):
    flat = json.dumps(value, ensure_ascii=False)
    numbers = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    if numbers or not isinstance(value, dict | list) or len(flat) + indent <= 100:
        return flat
    if isinstance(value, dict):
        items = [
            f"{json.dumps(key, ensure_ascii=False)}: {_format(item, indent + 2)}"
            for key, item in value.items()
        ]
    else:
        items = [_format(item, indent + 2) for item in value]
    inner, opening, closing = " " * (indent + 2), *("{}" if isinstance(value, dict) else "[]")
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f"\n{' ' * indent}{closing}"


def shrink_weights(source, target, start=None, keep=0.0):
    """Stores a `.weights.h5` as float16, in half the bytes; Keras loads it into any precision.

    Args:
        source, target: paths.
        start: path or None. Weights of the same network, of which the share `keep` is mixed in.
        keep: float in 0..1.
    """
    import h5py

    with (
        h5py.File(source, "r") as old,
        h5py.File(start or source, "r") as first,
        h5py.File(target, "w") as new,
    ):

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                values = item[()]
                if item.dtype.kind == "f":
                    mixed = keep * first[name][()].astype("f4") + (1 - keep) * values.astype("f4")
                    values = mixed.astype("f2")
                new[name] = values
            else:
                new.require_group(name)
            new[name].attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)


def package(run, target, evaluate=(), working_size=None, vividness=None, keep=None, of=None):
    """Makes a preset of a training run: float16 weights, a card with scores, the manifest.

    Args:
        run: path of a finished run folder.
        target: path of the preset's folder, which becomes its name; made, or overwritten but for
            the card's `about`.
        evaluate: folders of photos to score on; each folder's name is the set's name.
        working_size: int or None. Short side at use, px, of SIZES; None keeps the run's.
        vividness: float in 0..1 or None. The default of that knob; None keeps the run's.
        keep: float in 0..1 or None. The share of earlier weights: the preset has the average of
            those and what was learned, which often serves photos of all kinds better than either
            (Wortsman et al. 2022, arXiv 2109.01903). None keeps nothing of them.
        of: preset name, path or None. Whose weights are kept; None is those that the run started
            from. A run that went a long way in several trainings may keep some of the first.

    Returns:
        dict: the card, with the metrics of each set in `results`, where there is that knob at a
        vividness of 0 as well. `scores.parquet` beside it has a row per photo, set and method, at
        the default vividness.

    Raises:
        ColorlibError: `run` is no run folder, a folder holds no photos in color or has another's
            name, or nothing can be kept: the run started from random weights, or from others than
            are there now, or `of` has another network or backbone. Then `target` is as it was.
    """
    from colorlib import metrics, photos

    run, target = preset_folder(run), Path(target)
    if target.resolve() == run.resolve():
        raise ColorlibError(f"{target}: is the run itself; give another folder for the preset")
    if of is not None and keep is None:
        raise ColorlibError(f"of={of} needs keep: the share of its weights, in 0..1")
    sets = {}
    for folder in evaluate:
        name = Path(folder).resolve().name
        if name in sets:
            raise ColorlibError(f"{folder}: another set is called {name} too; rename the folder")
        sets[name] = photos.find(folder)
    card = _packaged_card(run, target, working_size, vividness)
    start = None
    if keep is not None:
        start, card["kept"] = _earlier_weights(run, card, keep, of), keep
        if of is not None:  # Its hash now: the preset may take its place.
            card["kept_of"] = {"name": Path(of).name, "weights_sha256": sha256(start)}
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=target) as folder:
        made = Path(folder)  # The preset is whole, or as it was.
        shutil.copyfile(run / MANIFEST, made / MANIFEST)
        shrink_weights(run / WEIGHTS, made / WEIGHTS, start, keep or 0.0)
        card["weights_sha256"] = sha256(made / WEIGHTS)
        write_card(made, card)
        if sets:
            card["results"], scores = _evaluate(made, sets)
            write_card(made, card)
            metrics.save_scores(scores, made / SCORES)
        (target / SCORES).unlink(missing_ok=True)  # of earlier weights
        for path in sorted(made.iterdir(), key=lambda path: path.name == CARD):
            path.replace(target / path.name)
    return card


def _earlier_weights(run, card, keep, of):
    """The path of the weights of which a share is kept."""
    if not 0 <= keep <= 1:
        raise ColorlibError(f"keep must be in 0..1. Received: {keep}")
    if of is not None:
        kinds = [(x["network"], x["embedding"].get("backbone")) for x in (load_card(of), card)]
        if kinds[0] != kinds[1]:
            raise ColorlibError(
                f"{of}: not the network and backbone of {run}, so nothing of it can be kept"
            )
        return preset_folder(of) / WEIGHTS
    if not (record := card.get("started_from")):
        raise ColorlibError(f"{run}: started from random weights, of which nothing can be kept")
    config = card["config"]  # It has no folders: those are in the run's own.
    if (run / CONFIG).exists():
        with whole(run / CONFIG, "config"):
            config = {**json.loads((run / CONFIG).read_text(encoding="utf-8"))}
    start = config.get("start")
    with suppress(ColorlibError):
        path = preset_folder(start) / WEIGHTS
        if sha256(path) == record["weights_sha256"]:
            return path
    raise ColorlibError(
        f"{start}: holds no longer the weights that {run} started from; name them with --of"
    )


def _packaged_card(run, target, working_size, vividness):
    """The run's card with the preset's name and settings."""
    card = {**load_card(run), "name": target.name}
    with suppress(ColorlibError, ValueError, KeyError):  # What was written by hand stays.
        card = {"about": load_card(target)["about"], **card}
    if working_size is not None:
        if working_size not in SIZES:
            raise ColorlibError(
                f"working_size must be from {SIZES[0]} to {SIZES[-1]}. Received: {working_size}"
            )
        card["working_size"] = working_size
    if vividness is not None:
        from colorlib.model import get_architecture

        if not get_architecture(card["network"]).vividness or not 0 <= vividness <= 1:
            raise ColorlibError(
                "vividness must be in 0..1, of a network that has that knob. "
                f"Received: {vividness} for {card['network']}"
            )
        card["vividness"] = vividness
    return card


def _evaluate(folder, sets):
    """Scores a preset on sets of photos: the card's `results`, and a table with all rows."""
    import pandas as pd

    from colorlib import metrics
    from colorlib.colorizer import Colorizer

    colorizer, results, tables = Colorizer.from_preset(folder), {}, []
    default = colorizer.vividness
    for name, paths in sets.items():
        scores = metrics.score(colorizer, paths)
        if scores["near_gray"].all():
            raise ColorlibError(f"{name}: holds no photo in color, and nothing can be scored on it")
        results[name] = [_result(scores, default)]
        if default:
            cautious = metrics.score(colorizer, paths, vividness=0, floors=scores)
            results[name].insert(0, _result(cautious, 0))
        scores.insert(0, "set", name)
        tables.append(scores)
    return results, pd.concat(tables)


def _result(scores, vividness):
    """What a card says of a set: the metrics, and the distance from the better floor."""
    from colorlib import metrics

    rows = metrics.compare(scores, n_bootstrap=1)
    error, decibels, area = (rows.loc[name] for name in ("ab_rmse", "ab_psnr_mean", "auc"))
    colorfulness = rows.loc["colorfulness"]
    return {
        "vividness": vividness,
        "photos": int(error["photos"]),
        "ab_rmse": round(error["value"], 3),
        "percent_under_better_floor": round(-100 * error["relative_difference"], 2),
        "ab_psnr": round(decibels["value"], 3),
        "db_over_better_floor": round(decibels["difference"], 3),
        "auc": round(area["value"], 4),
        "auc_of_better_floor": round(area[area["better_floor"]], 4),
        "colorfulness_percent": round(100 * colorfulness["value"] / colorfulness["truth"], 1),
    }
