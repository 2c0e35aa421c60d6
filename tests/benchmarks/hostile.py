"""A thousand broken photos through `colorlib colorize`: crashes, hangs, memory, and what is told.

    python tests/benchmarks/hostile.py [--count 1000] [--bombs 12] [--seed 0]

One process colors a folder of mutated files (tests/hostile/mutations.py), small files that claim to
be enormous, and white ones of twelve megapixels in two kilobytes. It must end by itself, with a
reason on record for each file that was not colored.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
from memory import EXPORT, MACHINE, peak, watch

from colorlib import ColorlibError, photos

sys.path.append(str(Path(__file__).parents[1] / "hostile"))
import mutations  # noqa: E402


def fill(folder, count, seed, bombs):
    """Writes the files; returns how many there are."""
    files = dict(mutations.mutations(count, seed)) | mutations.giants()
    files |= {f"bomb{number}.png": mutations.bomb(4000, 3000) for number in range(bombs)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return len(files)


def color(folder, output, preset, limit):
    """Runs the command.

    Returns:
        (exit code, peak MB, seconds, seconds of the processor, the most of these between two
        results, lines of stderr).
    """
    command = [sys.executable, "-m", "colorlib", "colorize", folder, "--output", output, "--json"]
    megabytes, busy, longest, last, told = 0.0, 0.0, 0.0, None, 0
    start = time.perf_counter()
    with tempfile.TemporaryFile() as results, tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen([*map(str, command), "--preset", preset], stdout=results, stderr=log)
        for now in watch(process):
            megabytes = max(megabytes, now)
            with contextlib.suppress(psutil.Error):  # It has just ended.
                busy = sum(process.cpu_times()[:2])  # whatever else the machine does
            size = os.fstat(results.fileno()).st_size
            if told < size:
                longest, last, told = max(longest, busy - (last or busy)), busy, size
            if time.perf_counter() - start > limit:
                process.kill()
        log.seek(0)
        lines = log.read().splitlines()
    return process.returncode, megabytes, time.perf_counter() - start, busy, longest, lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="mutated files")
    parser.add_argument("--bombs", type=int, default=12, help="files of twelve megapixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="pyramid")
    parser.add_argument("--limit", type=float, default=3600, help="seconds, after which it hangs")
    arguments = parser.parse_args()
    _, _, machine = peak("-c", MACHINE)
    print(json.dumps(json.loads(machine)))
    peak("-c", EXPORT.format(arguments.preset))
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary, "in"), Path(temporary, "out")
        folder.mkdir()
        count = fill(folder, arguments.count, arguments.seed, arguments.bombs)
        code, megabytes, seconds, busy, longest, lines = color(
            folder, output, arguments.preset, arguments.limit
        )
        assert code in (0, 1), f"exit code {code}: {lines[-5:]}"
        assert all(line.startswith("colorlib: ") for line in lines), lines
        table = pd.read_parquet(output / "colorlib.parquet")
        names = table["source"].map(lambda path: Path(path).name)
        # Without a suffix, what no longer begins as a picture is no photo.
        passed_by = {path for path in folder.iterdir() if path.name not in set(names)}
        assert not [path for path in passed_by if path.suffix], passed_by
        assert not passed_by & set(photos.find(folder))
        colored = table[table["error"].isna()]
        assert table["error"].dropna().str.len().min() > 0
        assert all((output / name).is_file() for name in colored["output"])
        assert not [path for path in output.rglob("*") if ".part." in path.name]
    print(f"{count:,} files in {seconds:.0f} s: exit code {code}, no crash, a record for each")
    print(f"{len(passed_by)} without a suffix are no pictures any more, and passed by")
    print(f"{len(colored):,} colored, {len(table) - len(colored):,} refused with a reason")
    print(f"processor: {busy:.0f} s, at most {longest:.1f} s between two results")
    print(f"peak memory: {megabytes:,.0f} MB")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ColorlibError as error:
        sys.exit(str(error))
