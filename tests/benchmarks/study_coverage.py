"""How often the study's 95 % intervals hold the truth, over simulated studies of known truth.

    python tests/benchmarks/study_coverage.py [--studies 2000] [--mixed 100] [--sizes 41x12 ...]

People and photos differ by an SD of 0.72 and 0.65 on the logit, everybody sees the same photos, and
two sets of them are compared: equal halves, and three quarters colored as in the paper (9 + 3).
Rows: one rate of the colored photos, with all answers taken for independent (naive) and over people
and photos; the difference of colored photos and originals, with three ideas of its degrees of
freedom, of which "Welch" is the one in use; and the mixed model's effect, over fewer studies.
These are simulated people: nothing here is a finding about photos.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process for each core is parallel enough

import pandas as pd  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2]))  # study lies in the clone, beside the library

from colorlib import ColorlibError  # noqa: E402
from study import simulation  # noqa: E402

PART = 250  # studies in a task, each with a seed of its own


def size(text):
    people, _, photos = text.partition("x")
    return int(people), int(photos)


def task(kind, people, photos, colored, studies, seed):
    run = simulation.coverage if kind == "rates" else simulation.mixed_coverage
    return run(people, photos, colored, studies, seed)


def tasks(arguments):
    for people, photos in arguments.sizes:
        for colored in (photos // 2, photos * 3 // 4):
            for kind, studies, part in (
                ("rates", arguments.studies, PART),
                ("mixed", arguments.mixed, max(PART // 10, 1)),
            ):
                for seed, start in enumerate(range(0, studies, part)):
                    count = min(part, studies - start)
                    yield kind, people, photos, colored, count, arguments.seed + seed


def summary(tables):
    """The parts of each design put together: coverage, its uncertainty, mean width."""
    rows = pd.concat(tables).assign(
        interval=lambda all: all["interval"].fillna("mixed model, log odds")
    )
    weighed = rows.assign(
        coverage=rows["coverage"] * rows["studies"], width=rows["width"] * rows["studies"]
    )
    keys = ["people", "photos", "colored", "interval"]
    total = weighed.groupby(keys, sort=False)[["studies", "coverage", "width"]].sum().reset_index()
    total[["coverage", "width"]] = total[["coverage", "width"]].div(total["studies"], axis=0)
    spread = (total["coverage"] * (1 - total["coverage"]) / total["studies"]) ** 0.5
    return total.assign(uncertainty=1.96 * spread)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="for each size")
    parser.add_argument("--mixed", type=int, default=100, help="the same for the mixed model")
    sizes = [(41, 12), (60, 24), (200, 54)]
    parser.add_argument("--sizes", type=size, nargs="+", default=sizes, metavar="PEOPLExPHOTOS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    listed = list(tasks(arguments))
    try:
        with ProcessPoolExecutor(arguments.processes) as pool:
            tables = list(pool.map(task, *zip(*listed, strict=True)))
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps({"source": simulation.SOURCE, "seed": arguments.seed}))
    for row in summary(tables).itertuples():
        design = f"{row.people}x{row.photos} {row.colored}+{row.photos - row.colored}"
        share = f"{100 * row.coverage:5.1f} % +- {100 * row.uncertainty:.1f}"
        print(
            f"{design:14} {row.interval:28} {row.studies:5} studies {share}  width {row.width:.3f}"
        )
    mixed = [one for one in tables if "people_sd" in one]
    if mixed:
        print(pd.concat(mixed).groupby(["people", "photos", "colored"], sort=False).agg(
            studies=("studies", "sum"), people_sd=("people_sd", "median"),
            photos_sd=("photos_sd", "median"), failed=("failed", "sum"),
        ).to_string(float_format="{:.3f}".format))  # fmt: skip


if __name__ == "__main__":
    main()
