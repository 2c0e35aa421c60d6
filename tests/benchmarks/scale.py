"""What training costs with more photos, larger crops and more processes: tables and one figure.

    python tests/benchmarks/scale.py --photos FOLDER [--output scale.png]

Photos: seconds until training can start (decoding, embedding), the size of the cache, and the
seconds of a crop, which should not depend on them. The counts are reached one after the other in
one fresh cache, so that the largest is what the whole thing takes. Crops: seconds of a crop at each
size, of both networks. Processes: crops per second of one and of several processes on this machine,
on JAX, on the same batches; all processes share the machine's cores. Nothing else should run.
"""

import argparse
import contextlib
import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from training_speed import AUGMENTATION, whole_step

from colorlib import ColorlibError, data, photos, training
from colorlib.checkpoint import HISTORY
from colorlib.config import TrainingConfig
from colorlib.embedding import shared_embedder
from notebooks import figures


def config_for(network, size, paths, arguments):
    """The config of a short training with everything that a long one has."""
    return TrainingConfig(
        photos=tuple(map(str, paths)),
        network=network,
        size=size,
        short_side=max(224, size),
        batch=arguments.batch,
        precision=arguments.precision,
        epochs=3,
        steps_per_epoch=arguments.steps,
        **AUGMENTATION,
    )


def seconds_a_crop(config, cache):
    with contextlib.redirect_stdout(sys.stderr):
        return statistics.median(whole_step(config, cache)) / config.batch


def by_photos(paths, arguments, cache):
    """A row for each number of photos."""
    embedder, rows, decoding, embedding = shared_embedder(), [], 0.0, 0.0
    for count in arguments.counts:
        start = time.perf_counter()
        photo_set = data.load_photos(paths[:count], short_side=224, cache=cache)
        decoded = time.perf_counter()
        data.embed_photos(photo_set, embedder)
        decoding += decoded - start
        embedding += time.perf_counter() - decoded
        files = [Path(f"{cache.path}{end}") for end in ("", "-wal")]
        config = config_for("paper", arguments.sizes[0], paths[:count], arguments)
        rows.append(
            {
                "photos": count,
                "decoding s": decoding,
                "embedding s": embedding,
                "cache MB": sum(f.stat().st_size for f in files if f.exists()) / 1e6,
                "s a crop": seconds_a_crop(config, cache),
            }
        )
    return pd.DataFrame(rows)


def by_size(paths, arguments, cache):
    """A row for each network and size of crops."""
    return pd.DataFrame(
        [
            {
                "network": network,
                "px": size,
                "s a crop": seconds_a_crop(config_for(network, size, paths, arguments), cache),
            }
            for network in ("paper", "pyramid")
            for size in arguments.sizes
        ]
    )


def by_processes(paths, arguments, cache):
    """A row for each number of processes: crops per second after the first epoch."""
    rows = []
    for count in arguments.processes:
        config = config_for("pyramid", arguments.sizes[0], paths, arguments)
        with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
            free.close()
            code = (
                ("import keras; keras.distribution.initialize()\n" if count > 1 else "")
                + "from colorlib.data import PhotoCache\n"
                + "from colorlib.config import TrainingConfig\n"
                + "from colorlib.training import train\n"
                + f"train({config!r}, {folder!r}, cache=PhotoCache({str(cache.path.parent)!r}), "
                + f"verbose=0, distribute={count > 1})"
            )
            environment = {**os.environ, "KERAS_BACKEND": "jax"}
            if count > 1:
                environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = address
                environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(count)
            running = [
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    env={**environment, "KERAS_DISTRIBUTION_PROCESS_ID": str(index)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for index in range(count)
            ]
            try:
                for process in running:
                    _, errors = process.communicate()
                    if process.returncode:
                        raise ColorlibError(errors.strip()[-500:])
            finally:
                for process in running:
                    process.kill()
            with open(Path(folder) / HISTORY, newline="") as file:
                rates = [float(row["crops_per_second"]) for row in csv.DictReader(file)]
        rows.append({"processes": count, "crops per s": statistics.median(rates[1:])})
    return pd.DataFrame(rows)


def draw(tables, path):
    """The tables side by side."""
    figures.use_style()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.2))
    table = tables["photos"]
    left.plot(table["photos"], (table["decoding s"] + table["embedding s"]) / 60, "o-")
    left.set(title="Before the first step", xlabel="photos", ylabel="minutes")
    for network, rows in tables["crops"].groupby("network"):
        middle.plot(rows["px"], 1000 * rows["s a crop"], "o-", label=network)
    middle.set(
        title="A crop", xlabel="side, px", ylabel="ms", xticks=tables["crops"]["px"].unique()
    )
    middle.legend()
    table = tables["processes"]
    right.bar(table["processes"].astype(str), table["crops per s"], width=0.5)
    right.set(title="Processes on one machine", xlabel="processes (JAX)", ylabel="crops per second")
    for axes in (left, middle, right):
        axes.set_ylim(0)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", help="folder (default: the packaged sample)")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128, 160, 192, 224])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="in a round; two are measured")
    parser.add_argument("--output", type=Path, default=Path("scale.png"))
    arguments = parser.parse_args()
    print(json.dumps(training.machine()), flush=True)
    measurements = {"photos": by_photos, "crops": by_size, "processes": by_processes}
    tables = {}
    try:
        paths = photos.find(arguments.photos or list(photos.packaged("sample")["path"]))
        if len(paths) < max(arguments.counts):
            parser.exit(1, f"{len(paths)} photos: fewer than --counts {max(arguments.counts)}\n")
        with tempfile.TemporaryDirectory() as folder:
            cache = data.PhotoCache(folder)
            for name, measure in measurements.items():
                tables[name] = measure(
                    paths if name == "photos" else paths[: arguments.counts[0]], arguments, cache
                )
                print(tables[name].to_string(index=False, float_format="{:.4g}".format), flush=True)
    except (ColorlibError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    draw(tables, arguments.output)


if __name__ == "__main__":
    main()
