"""Whether anything but pixels tells colored photos from originals, asked of 2,000 stimuli.

    python tests/benchmarks/study_leaks.py [--scenes 1000] [--output FOLDER]

The scenes are seeded crops of the packaged sample photos in three shapes; each is made into a
stimulus as it is and as colored, by `study.stimuli`. Three views are tested by permutation, within
scenes (pairs) and between them (`study.leaks`):

- `files`: length, time of change, name, header and padding of each file.
- `served`: what a browser gets of each ahead when one person sees all pairs: the address, every
  header of the response, its length and how long it took, the place in the pair and in the list of
  trials. (What is withheld until a trial begins is a part of the same length of every file.)
- `planted` and `control`, which must be found: one byte more in the length of all colored files,
  or of one in ten; and the lengths before padding.

The exit code is 1 if a view without a plant has p <= 0.01, or a plant is not found. Chance alone
does that in one run of 25; a leak that --seed 2 shows as well is none of chance.
"""

import argparse
import hashlib
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parents[1]))  # for survey_parts

from colorlib import ColorlibError, photos  # noqa: E402
from study import leaks  # noqa: E402
from study.stimuli import Recipe, build  # noqa: E402

ENOUGH = 1000  # stimuli in which a leak that shows in some only must be found


def save_crops(folder, count, side, seed):
    """Seeded crops of the sample photos, as PNG: landscape, portrait and square in turn."""
    rng = np.random.default_rng(seed)
    sample = [photos.read(path) for path in photos.packaged("sample")["path"]]
    for number in range(count):
        shape = [(side * 3 // 4, side), (side, side * 3 // 4), (side, side)][number % 3]
        rgb = sample[number % len(sample)]
        top, left = (
            rng.integers(0, whole - part + 1)
            for whole, part in zip(rgb.shape[:2], shape, strict=True)
        )
        crop = rgb[top : top + shape[0], left : left + shape[1]]
        photos.write(folder / f"crop{number:04}.png", crop)


def served(stimuli, folder):
    """What a browser gets of each stimulus, from a server of its own on the loopback."""
    from survey_parts import Person, Server, write_protocol

    from study.survey.server import withhold

    path = write_protocol(
        folder / "pairs.toml", "2afc-1s", scenes=len(stimuli.pairs()), practice=0, catch=0
    )
    ahead = {name: withhold(stimuli.read(name))[0] for name in stimuli.table["stimulus"]}
    names = {hashlib.sha256(content).hexdigest(): name for name, content in ahead.items()}
    rows = {}
    with Server(path, stimuli.folder, f"sqlite:///{folder / 'answers.sqlite'}") as server:
        person = Person(server.address)
        trials = person.start().json()["trials"]
        photos_of = [
            (trial["trial"], place, token)
            for trial in trials
            for place, token in enumerate(trial["photos"])
        ]
        random.Random(1).shuffle(photos_of)  # as to time: the server warms up
        for number, place, token in photos_of:
            reply, seconds = fetch(person, f"/image/{token}")
            name = names[hashlib.sha256(reply.content).hexdigest()]
            rows[name] = {"place": place, "trial": number, "seconds": seconds} | in_numbers(
                token, reply
            )
    return pd.DataFrame.from_dict(rows, orient="index").fillna(-1).astype(float)


def fetch(person, address):
    """(reply, seconds); what is refused for coming too fast is asked again."""
    while True:
        start = time.perf_counter()
        reply = person.get(address)
        seconds = time.perf_counter() - start
        if reply.status_code != 429:
            reply.raise_for_status()
            return reply, seconds
        time.sleep(1)


def in_numbers(token, reply):
    """An address and a response's headers, each letter of them a number."""
    texts = {"token": token, "status": str(reply.status_code)} | {
        name: value for name, value in reply.headers.items() if name != "date"
    }
    row = {f"{name} {i}": ord(c) for name, text in texts.items() for i, c in enumerate(text)}
    return row | {"bytes": len(reply.content), "headers": len(reply.headers)}


def test(name, features, table, want_leak, level):
    """Prints a row; returns whether it is as it should be."""
    found = [leaks.within_scenes(features, table), leaks.between_scenes(features, table)]
    varying = int((features.nunique() > 1).sum())
    cells = "".join(f"{p:10.4f} {feature:14}" for p, feature in found)
    print(f"{name:34} {len(features):6} {varying:5} {cells}", flush=True)
    return all((p <= level) == want_leak for p, _ in found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=256, help="longer side of the crops, px")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--level", type=float, default=0.01, help="p of a leak")
    parser.add_argument("--output", type=Path, help="keep crops and stimuli in this new folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.output or Path(scratch)
        if (folder / "crops").exists():
            parser.error(f"--output {folder}: holds crops; give a new folder")
        (folder / "crops").mkdir(parents=True)
        save_crops(folder / "crops", args.scenes, args.side, args.seed)
        recipe = Recipe(
            scenes=args.scenes, practice=0, catch=0, longest_side=args.side, near_gray=0.0,
            seed=args.seed,
        )  # fmt: skip
        start = time.perf_counter()
        stimuli = build(folder / "crops", folder / "stimuli", recipe)
        print(f"{len(stimuli.table)} stimuli in {time.perf_counter() - start:.0f} s")
        return int(not all(list(run(stimuli, folder, args.level))))


def run(stimuli, folder, level):
    """Asks all questions; for each, whether the answer is as it should be."""
    table, files = stimuli.table, leaks.visible(stimuli)
    fake = (table["version"] != "original").to_numpy()
    one_in_ten = fake & (np.random.default_rng(1).random(len(fake)) < 0.1)
    print(f"{'':34} {'files':>6} {'vary':>5} {'p within':>10} {'':14}{'p between':>10}")
    yield test("files", files, table, False, level)
    yield test("served", served(stimuli, folder), table, False, level)
    yield test("planted: 1 byte, all", plant(files, fake), table, True, level)
    if len(table) >= ENOUGH:
        yield test("planted: 1 byte, one in ten", plant(files, one_in_ten), table, True, level)
        coded = leaks.coded_lengths(stimuli).to_frame()
        yield test("control: without padding", coded, table, True, level)


def plant(features, where):
    """The features as if these files were a byte longer."""
    return features.assign(length=features["length"] + where)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ColorlibError as error:
        sys.exit(str(error))
