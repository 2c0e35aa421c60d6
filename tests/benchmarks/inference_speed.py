"""How fast photos are colored, and where the time goes.

    python tests/benchmarks/inference_speed.py [--presets paper pyramid] [--photos FOLDER]

In milliseconds a photo, medians of several rounds in which everything has its turn: coloring from
array to array and its stages, with reading and writing JPEG beside it; the networks alone, as
compiled programs of a fixed shape for one photo; and the ratios of the two. At last the first photo
of a fresh process, `colorlib colorize`. Nothing else should run beside it.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import chain
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from colorlib import Colorizer, ColorlibError, colorizer, framing, photos, preset_names, presets
from colorlib.data import resize_short_side
from colorlib.embedding import Embedder, efficientnet_lite2, shared_embedder
from colorlib.model import ARCHITECTURES
from colorlib.training import machine

STAGES = {
    "prepare": (Colorizer, "prepare_photo"),
    "embed": (Embedder, "embed"),
    "predict": (colorizer.Forward, "predict_on_batch"),
    "color": (framing, "color"),
}
COLUMNS = ("decode", *STAGES, "encode")


@contextlib.contextmanager
def stopwatch(seconds):
    """Adds what each of STAGES takes to `seconds`."""
    originals = {name: getattr(owner, attribute) for name, (owner, attribute) in STAGES.items()}

    def timed(name):
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = originals[name](*args, **kwargs)
            seconds[name] += time.perf_counter() - start
            return result

        return call

    for name, (owner, attribute) in STAGES.items():
        setattr(owner, attribute, timed(name))
    try:
        yield
    finally:
        for name, (owner, attribute) in STAGES.items():
            setattr(owner, attribute, originals[name])


def clock(function):
    """(seconds, result) of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def color(model, paths, batch, folder):
    """Colors JPEG files, so many at a time: dict of the milliseconds a photo by stage."""
    seconds = defaultdict(float)
    seconds["decode"], arrays = clock(lambda: [photos.read(path) for path in paths])
    batches = [arrays[start : start + batch] for start in range(0, len(arrays), batch)]
    with stopwatch(seconds):
        seconds["end to end"], results = clock(lambda: list(map(model.colorize_batch, batches)))
    targets = [folder / path.name for path in paths]
    seconds["encode"], _ = clock(lambda: list(map(photos.write, targets, chain(*results))))
    return {name: 1000 * seconds[name] / len(paths) for name in ("end to end", *COLUMNS)}


def compiled(model, inputs):
    """A call of one program for these inputs that waits for its result."""
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        program = tf.function(lambda x: model(x, training=False))
    else:
        import jax

        program = jax.jit(lambda x: model(x, training=False))
    return lambda: keras.tree.map_structure(keras.ops.convert_to_numpy, program(inputs))


def bare_networks(size, precisions):
    """Calls of the networks alone on one photo, by (name, px, precision)."""
    rng, calls, embedder = np.random.default_rng(1), {}, shared_embedder()

    def noise(*shape):
        return rng.normal(size=(1, *shape)).astype("float32")

    for precision in precisions:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        backbone = efficientnet_lite2()
        keras.config.set_dtype_policy(policy)
        backbone.set_weights(embedder.model.get_weights())
        paper = ARCHITECTURES["paper"].build(embedder.size, dtype=precision)
        pyramid = ARCHITECTURES["pyramid"].build(dtype=precision)
        for px in {224, size}:
            inputs = {"l": noise(px, px, 1), "embedding": noise(embedder.size)}
            calls["paper", px, precision] = compiled(paper, inputs)
        calls["EfficientNetLite2", 260, precision] = compiled(backbone, noise(260, 260, 3))
        calls["pyramid", size, precision] = compiled(pyramid, {"l": noise(size, size, 1)})
    return calls


def first_photo(preset, path, folder):
    """Seconds of `colorlib colorize` on one photo, from start to end of the process."""
    command = [sys.executable, "-m", "colorlib", "colorize", path, "--output", folder / "first"]
    command = [*map(str, command), "--preset", preset]
    seconds, done = clock(lambda: subprocess.run(command, capture_output=True, text=True))
    if done.returncode:
        raise ColorlibError(f"{preset}: {done.stderr.strip()}")
    return seconds


def median_table(measured, names):
    """A DataFrame of the medians of {key: list of dicts}, indexed by the keys."""
    medians = {key: pd.DataFrame(rows[1:]).median() for key, rows in measured.items()}
    return pd.DataFrame(medians).T.rename_axis(names)


def measure(arguments, models, paths, folder):
    """(coloring, bare networks): two tables. The first round compiles and is left out."""
    colored, bare = defaultdict(list), defaultdict(list)
    calls = bare_networks(arguments.size, arguments.precisions)
    for _ in range(arguments.rounds + 1):
        for key, call in calls.items():
            seconds = statistics.median(clock(call)[0] for _ in range(5))
            bare[key].append({"ms": 1000 * seconds})
        for key, model in models.items():
            for batch in (1, arguments.batch):
                colored[*key, batch].append(color(model, paths, batch, folder))
    return (
        median_table(colored, ["preset", "precision", "batch"]),
        median_table(bare, ["network", "px", "precision"]),
    )


def ratios(models, colored, bare, batch):
    """What is to be compared, a row for each preset and precision."""
    best, rows = bare["ms"].groupby(["network", "px"]).min(), []
    for (preset, precision), model in models.items():
        one, many = (colored.loc[(preset, precision, n), "end to end"] for n in (1, batch))
        parts = [("paper", 224), ("EfficientNetLite2", 260)]
        if model.card["network"] == "pyramid":
            parts = [("pyramid", best["pyramid"].index[0])]
        networks = sum(best[part] for part in parts)
        row = {"preset": preset, "precision": precision, "ms": one, "networks ms": networks}
        rows.append(row | {"ratio": one / networks, f"speed {batch}/1": one / many})
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=preset_names())
    parser.add_argument("--precisions", nargs="+", default=presets.PRECISIONS)
    parser.add_argument("--photos", help="folder (default: the packaged sample)")
    parser.add_argument("--size", type=int, default=256, help="of the photos, a multiple of 32 px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.size < 32 or arguments.size % 32:
        parser.error(f"--size must be a multiple of 32. Received: {arguments.size}")
    print(json.dumps(machine()), flush=True)
    try:
        sources = photos.find(arguments.photos or list(photos.packaged("sample")["path"]))
        models = {
            (preset, precision): Colorizer.from_preset(preset, precision)
            for preset in arguments.presets
            for precision in arguments.precisions
        }
        with tempfile.TemporaryDirectory() as folder:
            paths, output = [], Path(folder, "colored")
            output.mkdir()
            for index in range(arguments.batch):
                rgb = photos.to_uint8(photos.read(sources[index % len(sources)]))
                rgb = resize_short_side(rgb, arguments.size)[: arguments.size, : arguments.size]
                paths.append(Path(folder, f"{index}.jpg"))
                photos.write(paths[-1], rgb)
            colored, bare = measure(arguments, models, paths, output)
            first = {name: first_photo(name, paths[0], output) for name in arguments.presets}
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")
    compared = ratios(models, colored, bare, arguments.batch)
    colored = colored.replace(0, np.nan)  # pyramid has no embedding.
    for table in (colored.reset_index(), bare.reset_index(), compared):
        print(table.to_string(index=False, float_format="{:.4g}".format, na_rep="-"), "\n")
    print(pd.Series(first, name="first photo of a process, s").rename_axis("preset").to_string())


if __name__ == "__main__":
    main()
