"""How often the study's 95 % intervals hold the truth, over simulated studies of known truth.

    python tests/benchmarks/study_coverage.py [--studies 2000] [--mixed 100] [--sizes 41x12 ...]

People and photos differ by an SD of 0.72 and 0.65 on the logit. Designs: everybody sees the
same photos, all of them colored, half of them, or three quarters as in the paper (9+3); and lists,
where each person sees half of the scenes colored and the others as originals.
Rows: one rate of the colored photos, with all answers taken for independent (naive) and over people
and photos; the difference of colored photos and originals, with three ideas of its degrees of
freedom, of which "Welch" is the one in use; and the mixed model's effect, over fewer studies.
These are simulated people: nothing here is a finding about photos.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process for each core is parallel enough

import pandas as pd  # noqa: E402

from colorlib import ColorlibError  # noqa: E402
from study import simulation  # noqa: E402

PARTS = {"rates": 250, "mixed": 10}  # studies in a task, which has a seed of its own


def size(text):
    people, _, photos = text.partition("x")
    return int(people), int(photos)


def task(kind, people, photos, colored, studies, seed, population):
    run = {"rates": simulation.coverage, "mixed": simulation.mixed_coverage}[kind]
    return run(people, photos, colored, studies, seed, population)


def tasks(arguments, population):
    for people, photos in arguments.sizes:
        for colored in (photos, photos // 2, photos * 3 // 4, None):
            kinds = {
                "rates": arguments.studies,
                "mixed": arguments.mixed if colored != photos else 0,
            }
            for kind, studies in kinds.items():
                part = PARTS[kind]
                for number, start in enumerate(range(0, studies, part)):
                    count, seed = min(part, studies - start), arguments.seed + number
                    yield kind, people, photos, colored, count, seed, population


def summary(tables):
    """The parts of each design put together: weighted means, and medians' medians."""
    rows = pd.concat(tables)
    weighed = rows.assign(**{name: rows[name] * rows["studies"] for name in ("coverage", "width")})
    keys = ["people", "photos", "design", "interval"]
    total = weighed.groupby(keys, sort=False)[["studies", "coverage", "width"]].sum()
    total[["coverage", "width"]] = total[["coverage", "width"]].div(total["studies"], axis=0)
    total["uncertainty"] = (
        1.96 * (total["coverage"] * (1 - total["coverage"]) / total["studies"]) ** 0.5
    )
    if "people_sd" in rows:
        total[["people_sd", "photos_sd"]] = rows.groupby(keys)[["people_sd", "photos_sd"]].median()
        total["failed"] = rows.groupby(keys)["failed"].sum()
    return total.reset_index()


def show(row):
    share = f"{100 * row.coverage:5.1f} % +- {100 * row.uncertainty:.1f}"
    line = f"{row.people}x{row.photos} {row.design:7} {row.interval:28} "
    line += f"{row.studies:5} studies {share}  width {row.width:.3f}"
    if row.interval.startswith("mixed"):
        line += f"  SDs {row.people_sd:.2f}, {row.photos_sd:.2f}  failed {row.failed:.0f}"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="for each design")
    parser.add_argument("--mixed", type=int, default=100, help="the same for the mixed model")
    sizes = [(41, 12), (60, 24), (200, 54)]
    parser.add_argument("--sizes", type=size, nargs="+", default=sizes, metavar="PEOPLExPHOTOS")
    parser.add_argument("--accepted", type=float, default=0.46, help="rate of the colored photos")
    parser.add_argument("--original", type=float, default=0.67, help="rate of the originals")
    parser.add_argument(
        "--people-agreement", type=float, default=1.0,
        help="correlation of a person's leaning about colored photos and originals",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    try:
        population = simulation.Population(
            {"colored": arguments.accepted},
            arguments.original,
            people_agreement=arguments.people_agreement,
        )
        listed = list(tasks(arguments, population))
        with ProcessPoolExecutor(arguments.processes) as pool:
            tables = list(pool.map(task, *zip(*listed, strict=True)))
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps({"source": simulation.SOURCE, **vars(arguments)}))
    for row in summary(tables).itertuples():
        show(row)


if __name__ == "__main__":
    main()
