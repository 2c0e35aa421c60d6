"""What the benchmarks that train networks share: options, photos, a recipe, the cost of a pass."""

import json
import math
from pathlib import Path
from unittest import mock

import keras
import numpy as np
from keras import layers

from colorlib import ColorlibError, files, photos
from colorlib.config import TrainingConfig


def add_options(parser, names):
    """The options that say what is trained, on which photos, and what it is judged on."""
    parser.add_argument("--photos", type=Path, required=True, help="photos to train on")
    parser.add_argument("--validation", type=Path, required=True, help="photos to validate on")
    parser.add_argument("--output", type=Path, required=True, help="a folder for the scores")
    parser.add_argument("--runs", type=Path, default="runs", help="a folder for the trainings")
    parser.add_argument("--evaluate", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--only", nargs="+", choices=names, default=list(names))
    parser.add_argument("--count", type=int, default=8000, help="photos to train on, at most")


def chosen_photos(folder, count):
    """The same `count` photos of a folder each time, or all if there are fewer: list of Path."""
    paths = photos.find(folder)
    chosen = np.random.default_rng(1).permutation(len(paths))[:count]
    return [paths[i] for i in sorted(chosen)]


def evaluation_sets(pairs):
    """The photos of `--evaluate NAME=DIR ...`, and the packaged sample: dict of lists of paths."""
    return {"sample": list(photos.packaged("sample")["path"])} | named_sets(pairs)


def named_sets(pairs):
    """The photos of `--evaluate NAME=DIR ...`: dict of lists of paths."""
    sets = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise ColorlibError(f"--evaluate must be NAME=DIR. Received: {pair}")
        sets[name] = photos.find(folder)
    return sets


def recipe(network, paths, validation, **changes):
    """The TrainingConfig that the comparisons have in common, with `changes`."""
    settings = {
        "short_side": 192,
        "scales": (1.0, 1.5),
        "body_rate": 0.2,
        "weight_decay": 0.02,
        "precision": "mixed_bfloat16",
    }
    settings |= {"photos": tuple(paths), "validation": validation, "network": network} | changes
    return TrainingConfig(**settings)


def once(path, make):
    """What a JSON file holds, or what is made of it now and kept there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path, values):
    files.write_atomically(path, json.dumps(values, indent=2) + "\n")


def keep_settings(path, settings):
    """Writes what the scores beside this file were made with; refuses others than it has."""
    before = once(path, lambda: settings)
    changed = [f"{k}: {before.get(k)} -> {v}" for k, v in settings.items() if before.get(k) != v]
    if changed:
        raise ColorlibError(
            f"{path.parent}: began with other settings ({', '.join(changed)}); give those, or "
            "another --output"
        )


def multiply_adds(network, inputs):
    """The multiply-adds of one pass through the convolutions and dense layers of a network.

    A layer that works at several places counts at each; layers in a network within it, too. What is
    left out (normalization, activations, resizing) is less than a hundredth of them.

    Args:
        network: keras.Model.
        inputs: what it takes, for one photo.

    Returns:
        Two ints: those of trainable layers, and of frozen ones.
    """
    total = {True: 0, False: 0}

    def counted(kind):
        call, transposed = kind.call, kind is layers.Conv2DTranspose

        def count(layer, x, *args, **kwargs):
            y = call(layer, x, *args, **kwargs)
            places = math.prod((x if transposed else y).shape[:-1])
            total[layer.trainable] += places * math.prod(layer.kernel.shape)
            return y

        return mock.patch.object(kind, "call", count)

    conv, depthwise = counted(layers.Conv2D), counted(layers.DepthwiseConv2D)
    with conv, depthwise, counted(layers.Conv2DTranspose), counted(layers.Dense):
        network(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs), training=False)
    return total[True], total[False]
