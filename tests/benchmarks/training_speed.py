"""How fast training goes, and what stands between it and the machine's own peak.

    python tests/benchmarks/training_speed.py [--precision float32] [--plain] [--photos FOLDER]

A row for each network and size of crops: images per second of `train()` from photo cache to weight
average, without the first epoch (it compiles) and validation; of the bare step, the same compiled
one on a fixed batch that costs nothing to get; and what the convolutions, counted by hand, make of
that in FLOP/s, against the best of several large matrix products in this process. Nothing else
should run beside it. Give a folder of some thousand photos for numbers of a real training.
KERAS_BACKEND=jax works too.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops
from trained import multiply_adds

from colorlib import ColorlibError, data, photos, task, training
from colorlib.checkpoint import HISTORY
from colorlib.config import TrainingConfig
from colorlib.model import ARCHITECTURES

AUGMENTATION = {"scales": (0.75, 1.4), "film": 0.3, "erase": 0.2}


class Clock(keras.callbacks.Callback):
    """The seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        float(logs["loss"])  # What still runs on a device is waited for.
        self.seconds.append(time.perf_counter() - self.start)


def peak_flops(dtype, side, repeats=8):
    """The best FLOP/s of a matrix product of side x side."""
    a = ops.convert_to_tensor(np.random.default_rng(1).normal(size=(side, side)), dtype)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        float(ops.cast(ops.matmul(a, a)[0, 0], "float32"))  # Waits for a device, too.
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def step_flops(config, network):
    """FLOP of a step, an image: forward and backward, but of frozen layers forward only."""
    photo = np.zeros((1, config.size, config.size, 1), "float32")
    embedding = np.zeros((1, 1000), "float32")
    inputs = ARCHITECTURES[config.network].inputs(photo, embedding)
    trained, frozen = multiply_adds(network, inputs)
    return 6 * trained + 2 * frozen


class BareStep:
    """`train()`'s own compiled step on one batch, over and over."""

    def __init__(self, config, photo_set, embedding):
        keras.utils.set_random_seed(config.seed)
        self.network = training.start_network(config, embedding.get("size"))
        self.task = task.ColorizationTask(self.network, config)
        steps = config.steps_per_epoch * config.epochs
        optimizer = task.make_optimizer(config, steps, self.network)
        optimizer.build(self.network.trainable_variables)
        task.compile_task(self.task, optimizer)
        names = ("size", "batch", "seed", "scales")
        self.batch = data.RandomCrops(photo_set, **{n: getattr(config, n) for n in names})[0]
        self.seconds(1, 1)  # Compiles.

    def seconds(self, rounds, steps):
        """Seconds a step of each round."""
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            source = tf.data.Dataset.from_tensors(self.batch).repeat()
        else:
            batch = {name: ops.convert_to_tensor(value) for name, value in self.batch.items()}
            source = ((batch,) for _ in itertools.count())
        clock = Clock()
        options = {"epochs": rounds, "steps_per_epoch": steps, "callbacks": [clock]}
        self.task.fit(source, shuffle=False, verbose=0, **options)
        for variable in self.task.optimizer.variables:  # JAX has donated them to the step.
            variable.assign(np.array(variable.value))
        return [seconds / steps for seconds in clock.seconds]


def whole_step(config, cache):
    """Seconds a step of each round of `train()`."""
    with tempfile.TemporaryDirectory() as run:
        training.train(config, run, cache=cache, verbose=0)
        history = pd.read_csv(Path(run) / HISTORY)
    return list(config.batch / history["crops_per_second"][1:])


def measure(config, cache, peaks):
    """A row of the table. The bare step is measured before and after, as machines drift."""
    with contextlib.redirect_stdout(sys.stderr):
        photo_set, _, embedding = training.prepare(config, cache)
        step, steps = BareStep(config, photo_set, embedding), max(1, config.steps_per_epoch // 2)
        bare = step.seconds(config.epochs - 1, steps)
        whole = statistics.median(whole_step(config, cache))
        bare = statistics.median(bare + step.seconds(config.epochs - 1, steps))
    flops = step_flops(config, step.network)
    ideal = flops / peaks["bfloat16" if config.precision == "mixed_bfloat16" else "float32"]
    return {
        "network": config.network,
        "px": config.size,
        "images/s": config.batch / whole,
        "bare step images/s": config.batch / bare,
        "s/image": whole / config.batch,
        "whole/bare time": whole / bare,
        "GFLOP/image": flops / 1e9,
        "GFLOP/s": flops * config.batch / whole / 1e9,
        "of peak": ideal * config.batch / whole,
        "bare of peak": ideal * config.batch / bare,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=["paper:128", "paper:224", "pyramid:160"])
    parser.add_argument("--photos", help="folder (default: the packaged sample)")
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16, help="in a round")
    parser.add_argument("--rounds", type=int, default=3, help="the median of which is told")
    parser.add_argument("--peak-side", type=int, default=4096, help="of the matrix product")
    parser.add_argument("--plain", action="store_true", help="crops and flips, no augmentation")
    arguments = parser.parse_args()
    machine = training.machine()
    print(json.dumps(machine), flush=True)
    options = {
        "photos": arguments.photos or tuple(photos.packaged("sample")["path"]),
        "precision": arguments.precision,
        "batch": arguments.batch,
        "steps_per_epoch": arguments.steps,
        "epochs": arguments.rounds + 1,
        **({} if arguments.plain else AUGMENTATION),
    }
    dtypes = ("bfloat16", "float32")
    peaks = {dtype: peak_flops(dtype, arguments.peak_side) for dtype in dtypes}
    text = ", ".join(f"{dtype} {flops / 1e9:.1f} GFLOP/s" for dtype, flops in peaks.items())
    print(f"peak of {arguments.peak_side}^3: {text}", flush=True)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            cache = data.PhotoCache(folder)
            for run in arguments.runs:
                network, size = run.split(":")
                size = int(size)
                config = TrainingConfig(
                    network=network, size=size, short_side=max(224, size), **options
                )
                rows.append(measure(config, cache, peaks))
    except (ColorlibError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
