"""Where in photos the presets are wrong, by color and by size of region, on sets that don't ship.

    python tests/benchmarks/regions.py --photos DIR --evaluate imagenet475=DIR ...

Writes what 05_verdicts shows of the reference run: notebooks/data/regions.parquet, a row for each
preset, set, photo and group of pixels (`notebooks.verdicts.region_scores`), and
notebooks/data/categories.csv, how many of the training photos the classifier takes for what.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from trained import named_sets

from colorlib import Colorizer, ColorlibError, data, metrics, photos, presets
from colorlib.embedding import shared_embedder
from notebooks import verdicts

OUTPUT = Path(__file__).parents[2] / "notebooks" / "data"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="the photos of the training")
    parser.add_argument("--evaluate", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="a folder")
    arguments = parser.parse_args()
    sets, tables = named_sets(arguments.evaluate), []
    photos.find(arguments.photos)  # refused before the hours, not after
    for preset in sorted(presets.preset_names()):
        colorizer = Colorizer.from_preset(preset)
        for name, paths in sets.items():
            table = verdicts.score_regions(colorizer, paths)
            tables.append(table.assign(preset=preset, set=name))
            print(f"{preset}, {name}: {table['file'].nunique()} photos", flush=True)
    table = pd.concat(tables, ignore_index=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    metrics.save_scores(table, arguments.output / "regions.parquet", digits=3)
    training = data.load_photos(str(arguments.photos), short_side=192)
    found = verdicts.categories(data.embed_photos(training, shared_embedder()))
    counts = pd.Series(found, name="category").value_counts()
    counts = counts.reindex(list(verdicts.CLASSES), fill_value=0)
    counts.rename("photos").to_csv(arguments.output / "categories.csv")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ColorlibError as error:
        sys.exit(str(error))
