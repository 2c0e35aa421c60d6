"""How often the study's 95 % intervals hold the truth, over simulated studies of known truth.

    python tests/benchmarks/study_coverage.py [--studies 2000] [--mixed 100] [--ranks 2000]
        [--sizes 41x12 ...] [--designs lists ...] [--accepted 0.46] [--original 0.67]
        [--people-agreement 1]

People and photos differ by an SD of 0.72 and 0.65 on the logit. Designs: everybody sees the
same photos, all of them colored, half of them, or three quarters as in the paper (9+3); and lists,
where each person sees half of the scenes colored and the others as originals.
Rows: one rate of the colored photos, with all answers taken for independent (naive) and over people
and photos; the difference of colored photos and originals, with three ideas of its degrees of
freedom, of which "Welch" is the one in use; the mixed model's effect with slopes of the method over
people and without, over fewer studies; and the shares and ranks of single photos, with 12 photos
and 10 answers on each, 9 and 60, 9 and 10. Both misses are told: the truth below and above the
interval. These are simulated people: nothing here is a finding about photos.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process for each core is parallel enough

import pandas as pd  # noqa: E402

from colorlib import ColorlibError  # noqa: E402
from study import coverage, simulation  # noqa: E402

PARTS = {"rates": 250, "mixed": 10, "no slopes": 10, "ranks": 250}  # studies in a task, each with
# a seed of its own


DESIGNS = {
    "colored": lambda photos: photos,
    "half": lambda photos: photos // 2,
    "paper": lambda photos: photos * 3 // 4,
    "lists": lambda photos: None,
}
RANKS = (12, 10), (9, 60), (9, 10)  # photos, and answers on each


def size(text):
    people, _, photos = text.partition("x")
    return int(people), int(photos)


def task(kind, studies, seed, population, people, photos, colored=None):
    options = {"studies": studies, "seed": seed, "population": population}
    if kind == "ranks":
        return coverage.rank_coverage(photos, people, **options)
    if kind == "rates":
        return coverage.coverage(people, photos, colored, **options)
    return coverage.mixed_coverage(people, photos, colored, slopes=kind == "mixed", **options)


def tasks(arguments, population):
    for people, photos in arguments.sizes:
        for design in arguments.designs:
            size = people, photos, DESIGNS[design](photos)
            yield from parts("rates", arguments.studies, arguments, population, *size)
            for kind in ("mixed", "no slopes") if design != "colored" else ():
                yield from parts(kind, arguments.mixed, arguments, population, *size)
    for photos, answers in RANKS:
        yield from parts("ranks", arguments.ranks, arguments, population, answers, photos)


def parts(kind, studies, arguments, population, *design):
    for number, start in enumerate(range(0, studies, PARTS[kind])):
        count = min(PARTS[kind], studies - start)
        yield kind, count, arguments.seed + number, population, *design


def summary(tables):
    """The parts of each design put together: weighted means, and medians' medians."""
    rows = pd.concat(tables)
    # The variance of all studies is that within the parts and that between them.
    variance = rows["studies"] * (rows["uncertainty"] / 1.96) ** 2
    rows["squares"] = variance + rows["coverage"] ** 2
    means = ["coverage", "below", "above", "width", "squares"]
    keys = ["people", "photos", "design", "interval"]
    weighed = rows.assign(**{name: rows[name] * rows["studies"] for name in means})
    total = weighed.groupby(keys, sort=False)[["studies", *means]].sum()
    total[means] = total[means].div(total["studies"], axis=0)
    variance = (total.pop("squares") - total["coverage"] ** 2).clip(lower=0)
    total["uncertainty"] = 1.96 * (variance / total["studies"]) ** 0.5
    if "people_sd" in rows:
        sds = ["people_sd", "scenes_sd", "stimuli_sd"]
        total[sds] = rows.groupby(keys)[sds].median()
        total["fallbacks"] = rows.groupby(keys)["fallbacks"].sum()
    return total.reset_index()


def show(row):
    share = f"{100 * row.coverage:5.1f} % +- {100 * row.uncertainty:.1f}"
    missed = f"missed {100 * row.below:.1f} below, {100 * row.above:.1f} above"
    line = f"{row.people}x{row.photos} {row.design:7} {row.interval:28} "
    line += f"{row.studies:5} studies {share}  {missed}  width {row.width:.3f}"
    if row.interval.startswith("mixed"):
        line += f"  SDs {row.people_sd:.2f}, {row.scenes_sd:.2f}, {row.stimuli_sd:.2f}"
        line += f"  fallbacks {row.fallbacks:.0f}"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="for each design")
    parser.add_argument("--mixed", type=int, default=100, help="the same for the mixed model")
    parser.add_argument("--ranks", type=int, default=2000, help="the same for single photos")
    sizes = [(41, 12), (60, 24), (200, 54)]
    parser.add_argument("--sizes", type=size, nargs="+", default=sizes, metavar="PEOPLExPHOTOS")
    parser.add_argument("--designs", choices=DESIGNS, nargs="+", default=list(DESIGNS))
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
            tables = [done.result() for done in [pool.submit(task, *one) for one in listed]]
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps({"source": simulation.SOURCE, **vars(arguments)}))
    for row in summary(tables).itertuples():
        show(row)


if __name__ == "__main__":
    main()
