"""The largest memory of a short training and of coloring photos, as the operating system counts it.

    python tests/benchmarks/memory.py [--presets paper pyramid] [--photos FOLDER]

Each row is a process of its own, the command of `colorlib` that it names; `import` is what Keras
and its backend take without doing anything.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from colorlib import ColorlibError, photos, preset_names

MACHINE = "import json; from colorlib.training import machine; print(json.dumps(machine()))"
EXPORT = "from colorlib.litert import exported; exported({!r})"  # once, before it is measured


def watch(process):
    """Yields the MB that a process takes, until it ends."""
    # The system's own maximum begins with the parent's memory: look every 10 ms instead.
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # It has just ended.
            yield process.memory_info().rss / 1e6
        time.sleep(0.01)


def peak(*command, **environment):
    """(MB at the peak, seconds, what it printed) of a Python process."""
    command = [sys.executable, *map(str, command)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen(
            command, stdout=output, stderr=log, text=True, env=os.environ | environment
        )
        megabytes = max(watch(process), default=0.0)
        seconds = time.perf_counter() - start
        for file in (output, log):
            file.seek(0)
        if process.returncode:
            raise ColorlibError(f"{' '.join(command)}: {log.read().strip()[-500:]}")
        return megabytes, seconds, output.read()


def resized(source, target, width, height):
    """A JPEG file of this size made of a photo."""
    from PIL import Image

    with Image.open(source) as photo:
        photo.convert("RGB").resize((width, height)).save(target, quality=92)
    return target


def measurements(arguments, folder):
    """What to run: {(what, with which): the command}."""
    paths = photos.find(arguments.photos or list(photos.packaged("sample")["path"]))
    many = folder / "photos"
    many.mkdir()
    for path in paths:
        (many / path.name).write_bytes(path.read_bytes())
    side, (width, height) = 256, arguments.large
    sources = {
        f"{side} px photo": resized(paths[0], folder / "small.jpg", side, side),
        f"{width * height / 1e6:.3g} MP photo": resized(
            paths[0], folder / "large.jpg", width, height
        ),
        f"folder of {len(paths)}": many,
    }
    commands = {}
    for network in arguments.networks:
        commands["train", network] = [
            *("train", "--photos", many, "--output", folder / network, "--network", network),
            *("--size", arguments.size, "--batch", arguments.batch, "--precision"),
            *(arguments.precision, "--epochs", 2, "--steps-per-epoch", arguments.steps),
        ]
    for preset in arguments.presets:
        for name, source in sources.items():
            output = folder / f"{preset} {name}"
            commands[f"colorize a {name}", preset] = [
                *("colorize", source, "--output", output, "--preset", preset)
            ]
    return commands


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["paper", "pyramid"], help="to train")
    parser.add_argument("--presets", nargs="+", default=preset_names())
    parser.add_argument("--photos", help="folder (default: the packaged sample)")
    parser.add_argument("--precision", default="mixed_bfloat16", help="of the training")
    parser.add_argument("--size", type=int, default=160, help="of the crops, px")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5, help="in each of two epochs")
    parser.add_argument("--large", type=int, nargs=2, default=(6000, 4000), metavar="PX")
    arguments = parser.parse_args()
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            megabytes, seconds, machine = peak("-c", MACHINE)
            print(machine.strip(), flush=True)
            rows.append(("import", "", megabytes, seconds))
            for preset in arguments.presets:
                peak("-c", EXPORT.format(preset))
            for key, command in measurements(arguments, Path(folder)).items():
                cache = {"COLORLIB_CACHE": folder} if key[0] == "train" else {}
                megabytes, seconds, _ = peak("-m", "colorlib", *command, **cache)
                rows.append((*key, megabytes, seconds))
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")
    table = pd.DataFrame(rows, columns=["what", "with", "peak MB", "seconds"])
    print(table.to_string(index=False, float_format="{:.1f}".format))


if __name__ == "__main__":
    main()
