"""The benchmarks run as one command each and tell numbers: what those are is not tested."""

import io
import json
import math
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib
import pytest

from colorlib.model import ARCHITECTURES

FOLDER = Path(__file__).parent / "benchmarks"
TINY = {
    "training_speed": "--runs paper:32 pyramid:32 --batch 2 --steps 2 --rounds 1 --peak-side 256",
    "inference_speed": "--presets paper --precisions float32 --size 64 --batch 2 --rounds 1",
    "memory": "--networks paper --presets paper --size 32 --batch 2 --steps 1 --large 300 200",
    "archive": "--preset paper --count 6 --megapixels 0.1",
    "scale": "--counts 2 3 --sizes 32 --processes 1 --batch 2 --steps 2",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(sample, tmp_path_factory):
    """A folder of three photos."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sample[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def start(photos, small_config, tmp_path, monkeypatch):
    """Runs a script in this process, with a small network in the place of `pyramid`: its lines."""

    def start(name):
        script, printed = FOLDER / f"{name}.py", io.StringIO()
        monkeypatch.setattr(sys, "argv", [script, *TINY[name].split(), "--photos", str(photos)])
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(ARCHITECTURES, "pyramid", ARCHITECTURES[small_config.network])
        with redirect_stdout(printed), matplotlib.rc_context():
            runpy.run_path(str(script), run_name="__main__")
        return without_machine(printed.getvalue())

    return start


def process(name, *options):
    """Runs a script in a process of its own, as people do: the lines that it prints."""
    command = [sys.executable, FOLDER / f"{name}.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return without_machine(done.stdout)


def without_machine(text):
    """The lines after the first, which describes the machine."""
    first, *lines = text.splitlines()
    machine = json.loads(first)
    assert machine["processor"] and machine["versions"]["keras"]
    return lines


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


def test_training_speed(start):
    check(start("training_speed"), ["paper 32", "pyramid 32"], 8)


def test_inference_speed(start):
    lines = start("inference_speed")
    check(lines, ["paper float32 1", "paper float32 2"], 7)
    networks = ["paper 64", "paper 224", "pyramid 64", "EfficientNetLite2 260"]
    check(lines, [f"{network} float32" for network in networks], 1)
    check([line for line in lines if len(line.split()) == 6], ["paper float32"], 4)
    check(lines[-1:], ["paper"], 1)


def test_memory(photos):
    rows = [
        "import",
        "train paper",
        "colorize a 256 px photo paper",
        "colorize a 0.06 MP photo paper",
    ]
    lines = process("memory", *TINY["memory"].split(), "--photos", photos)
    check(lines, [*rows, "colorize a folder of 3 paper"], 2)


def test_archive(photos):
    lines = process("archive", *TINY["archive"].split(), "--photos", photos)
    rows = [line for line in lines if line.split()[:1] in (["0.1"], ["6"])]
    assert len(rows) == 3 and re.fullmatch(r"the folder reaches \d+ % of .*", lines[-1])
    for row in rows:
        assert all(float(number) > 0 for number in row.split()[-3:])


def test_scale(start, tmp_path):
    lines = start("scale")
    check(lines, ["2", "3"], 4)
    check(lines, ["paper 32", "pyramid 32", "1"], 1)
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_hostile():
    options = "--count 20 --bombs 1 --preset paper"
    lines = process("hostile", *options.split())
    told = "\n".join(lines)
    assert "no crash, a record for each" in told and "peak memory: " in told
