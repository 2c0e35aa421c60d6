"""Seconds and memory of `colorlib colorize`: one photo, large scans, and a folder, once and again.

    python tests/benchmarks/archive.py [--count 2000] [--scale 1] [--megapixels 1 12 100]

Each row is a process of its own. The folder holds copies of the photos at several sizes and shapes;
its rate stands beside that of the bare network on the same working shapes.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from memory import EXPORT, MACHINE, peak, resized

from colorlib import ColorlibError, photos
from colorlib.framing import frame_photo
from colorlib.litert import LiteColorizer, exported

SIZES = [(640, 480), (480, 640), (600, 400), (512, 512), (800, 450), (400, 600)]


def folder_of(paths, count, folder, scale=1.0):
    """Photos of many shapes, each with a content of its own."""
    for number, path in zip(range(count), itertools.cycle(paths)):
        width, height = (round(scale * side) for side in SIZES[number % len(SIZES)])
        target = resized(path, folder / f"{number:05}.jpg", width - number // 97 % 8, height)
        assert target.exists()
    return folder


def bare_rate(folder, preset):
    """Photos a second of the network alone, on what it is given of these photos."""
    colorizer = LiteColorizer(exported(preset))
    prepared = [
        frame_photo(photos.read(path), colorizer.working_size, colorizer.square)
        for path in sorted(folder.iterdir())[: 10 * len(SIZES)]
    ]
    colorizer.predict_maps(prepared)  # every program is ready
    start = time.perf_counter()
    colorizer.predict_maps(prepared)
    return len(prepared) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="color photos (default: the packaged sample)")
    parser.add_argument("--preset", default="pyramid")
    parser.add_argument("--count", type=int, default=2000, help="photos in the folder")
    parser.add_argument("--scale", type=float, default=1.0, help="1: they have 0.3 megapixels")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 12, 100])
    arguments = parser.parse_args()
    paths = photos.find(arguments.photos or list(photos.packaged("sample")["path"]))
    _, _, machine = peak("-c", MACHINE)
    print(json.dumps(json.loads(machine)))
    peak("-c", EXPORT.format(arguments.preset))
    rows = []

    def measure(what, *options, count=1):
        command = ("-m", "colorlib", "colorize", *options, "--preset", arguments.preset)
        megabytes, seconds, _ = peak(*command)
        rows.append({"what": what, "s": seconds, "MB": megabytes, "photos a s": count / seconds})

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for megapixels in arguments.megapixels:
            height = int(np.sqrt(megapixels * 1e6 / 1.5))
            scan = resized(paths[0], folder / "scan.jpg", int(1.5 * height), height)
            target = folder / "scan_colored.jpg"
            measure(f"{megapixels:g} megapixels", scan, "--output", target, "--overwrite")
        many = folder / "many"
        many.mkdir()
        folder_of(paths, arguments.count, many, arguments.scale)
        for what in ("photos", "photos, once more"):
            measure(
                f"{arguments.count:,} {what}", many, "--output", folder / "out",
                count=arguments.count,
            )  # fmt: skip
        rate = bare_rate(many, arguments.preset)
        rows.append({"what": "the network alone", "photos a s": rate})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    print(f"the folder reaches {100 * rows[-3]['photos a s'] / rate:.0f} % of the network's rate")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ColorlibError as error:
        sys.exit(str(error))
