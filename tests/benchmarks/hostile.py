"""A thousand broken photos through `colorlib colorize`: crashes, hangs, memory, and what is told.

    python tests/benchmarks/hostile.py [--count 1000] [--seed 0]

One process colors a folder of mutated files (tests/hostile/mutations.py), small files that claim to
be enormous, and white ones of twelve megapixels in two kilobytes. It must end by itself, with a
reason on record for each file that was not colored. Linux and macOS.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
from memory import EXPORT, MACHINE, UNIT, peak

from colorlib import photos

sys.path.append(str(Path(__file__).parents[1] / "hostile"))
import mutations  # noqa: E402

BOMBS = 12


def fill(folder, count, seed):
    """Writes the files; returns how many there are."""
    files = dict(mutations.mutations(count, seed)) | mutations.giants()
    files |= {f"bomb{number}.png": mutations.bomb(4000, 3000) for number in range(BOMBS)}
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
    longest, last, start = 0.0, None, time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*map(str, command), "--preset", preset], stdout=subprocess.PIPE, stderr=log
        )
        for _ in process.stdout:
            times = psutil.Process(process.pid).cpu_times()  # whatever else the machine does
            now = times.user + times.system
            longest, last = max(longest, now - (last or now)), now
            if time.perf_counter() - start > limit:
                process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        lines = log.read().splitlines()
    seconds = time.perf_counter() - start
    busy = usage.ru_utime + usage.ru_stime
    return process.returncode, usage.ru_maxrss * UNIT / 1e6, seconds, busy, longest, lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="mutated files")
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
        count = fill(folder, arguments.count, arguments.seed)
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
    sys.exit(main())
