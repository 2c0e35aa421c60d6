"""Where in photos the presets are wrong, by color and by size of region, on sets that don't ship.

    python tests/benchmarks/regions.py --evaluate imagenet475=DIR --evaluate kodak24=DIR ...

Writes what 05_verdicts shows of the reference run: notebooks/data/regions.parquet, a row for each
preset, set, photo, method and group of pixels (`notebooks.verdicts.region_scores`).
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from trained import named_sets

from colorlib import Colorizer, ColorlibError, files, presets
from notebooks import verdicts

OUTPUT = Path(__file__).parents[2] / "notebooks" / "data" / "regions.parquet"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluate", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    try:
        sets, tables = named_sets(arguments.evaluate), []
    except ColorlibError as error:
        parser.error(str(error))
    for preset in sorted(presets.preset_names()):
        colorizer = Colorizer.from_preset(preset)
        for name, paths in sets.items():
            table = verdicts.score_regions(colorizer, paths)
            tables.append(table.assign(preset=preset, set=name))
            print(f"{preset}, {name}: {table['file'].nunique()} photos", flush=True)
    table = pd.concat(tables, ignore_index=True)
    numbers = table.select_dtypes("number").columns
    table[numbers] = table[numbers].astype("float32")
    words = table.columns.difference(numbers)
    table[words] = table[words].astype("category")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(
        arguments.output, lambda path: table.to_parquet(path, compression="zstd", index=False)
    )


if __name__ == "__main__":
    sys.exit(main())
