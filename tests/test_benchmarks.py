"""The benchmarks run as one command each and tell numbers: what those are is not tested."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
TINY = {
    "training_speed": "--runs paper:32 pyramid:32 --batch 2 --steps 2 --rounds 1 --peak-side 256",
    "inference_speed": "--presets paper --precisions float32 --size 64 --batch 2 --rounds 1",
    "memory": "--networks paper --presets paper --size 32 --batch 2 --steps 1 --large 300 200",
    "archive": "--preset paper --count 6 --megapixels 0.1",
    "scale": "--counts 2 3 --sizes 32 --processes 1 --batch 2 --steps 2",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder in which the scripts run."""
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def start(sample, output, tmp_path_factory):
    """Runs scripts side by side, since most of it is one core's work: {name: lines printed}."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sample[:3]:
        (folder / path.name).write_bytes(path.read_bytes())

    def start(*names):
        running = {
            name: subprocess.Popen(
                [sys.executable, FOLDER / f"{name}.py", *TINY[name].split(), "--photos", folder],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=output,
            )
            for name in names
        }
        printed = {}
        try:
            for name, process in running.items():
                told, errors = process.communicate()
                assert process.returncode == 0, errors
                printed[name] = told.splitlines()
        finally:
            for process in running.values():
                process.kill()
        for name in names:
            machine = json.loads(printed[name][0])  # the first line describes it
            assert machine["processor"] and machine["versions"]["keras"]
        return printed

    return start


@pytest.fixture(scope="module")
def lines(start):
    """The lines that the slow scripts print."""
    return start("training_speed", "memory", "scale")


def check(lines, rows, count):
    """The row that begins with each of these texts has so many numbers, finite and positive."""
    for start in rows:
        found = [
            line.split() for line in lines if line.split()[: len(start.split())] == start.split()
        ]
        assert len(found) == 1, start
        numbers = [float(x) for x in found[0][len(start.split()) :]]
        assert len(numbers) == count, start
        assert all(math.isfinite(x) and x > 0 for x in numbers), start


@pytest.mark.slow
def test_training_speed(lines):
    check(lines["training_speed"], ["paper 32", "pyramid 32"], 8)


@pytest.mark.slow
def test_inference_speed(start):
    (printed,) = start("inference_speed").values()
    check(printed, ["paper float32 1", "paper float32 2"], 7)
    networks = ["paper 64", "paper 224", "pyramid 64", "EfficientNetLite2 260"]
    check(printed, [f"{network} float32" for network in networks], 1)
    check([line for line in printed if len(line.split()) == 6], ["paper float32"], 4)
    check(printed[-1:], ["paper"], 1)


@pytest.mark.slow
def test_memory(lines):
    rows = [
        "import",
        "train paper",
        "colorize a 256 px photo paper",
        "colorize a 0.06 MP photo paper",
    ]
    check(lines["memory"], [*rows, "colorize a folder of 3 paper"], 2)


@pytest.mark.slow
def test_archive(start):
    (printed,) = start("archive").values()
    rows = [line for line in printed if line.split()[:1] in (["0.1"], ["6"])]
    assert len(rows) == 3 and re.fullmatch(r"the folder reaches \d+ % of .*", printed[-1])
    for row in rows:
        assert all(float(number) > 0 for number in row.split()[-3:])


@pytest.mark.slow
def test_scale(lines, output):
    check(lines["scale"], ["2", "3"], 4)
    check(lines["scale"], ["paper 32", "pyramid 32", "1"], 1)
    assert (output / "scale.png").stat().st_size > 10_000


@pytest.mark.slow
def test_hostile():
    options = "--count 20 --bombs 1 --preset paper"
    command = [sys.executable, FOLDER / "hostile.py", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no crash, a record for each" in done.stdout and "peak memory: " in done.stdout
