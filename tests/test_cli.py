"""The command line: what a user types, what it leaves, and the line that says what is wrong."""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from colorlib import photos
from colorlib.__main__ import main


def command(*arguments):
    """The command as a user runs it, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-m", "colorlib", *map(str, arguments)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip


def without_preparing(stderr):
    """The lines but the one that stands there when a preset is used for the first time."""
    return [line for line in stderr.splitlines() if "for this machine (once)" not in line]


@pytest.fixture
def here(capsys):
    """The command in this process: (exit code, lines of stdout, lines of stderr)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), without_preparing(captured.err)

    return run


@pytest.fixture
def folder(tmp_path, sample):
    """A folder with photos in subfolders, of which two bear one name."""
    folder = tmp_path / "photos"
    for target, source in [("a.jpg", 0), ("trip/a.jpg", 1), ("trip/day 2/b.jpg", 2)]:
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(sample[source]) as image:
            image.resize((60, 40)).save(path)
    return folder


def test_vividness(here, folder, tiny_run, tmp_path):
    photo, chroma = folder / "a.jpg", []
    for value in ("0", "1"):
        options = ("--preset", "pyramid", "--vividness", value)
        code, (path,), err = here("colorize", photo, "--output", tmp_path / value, *options)
        assert (code, err) == (0, ["colorlib: 1 colored"])
        chroma.append(np.abs(rgb2lab(photos.read(path))[..., 1:]).mean())
    assert chroma[1] > chroma[0]
    for preset, value, message in [
        ("pyramid", "1.5", "vividness must be in 0..1. Received: 1.5"),
        (tiny_run, "0.5", "has no vividness"),
    ]:
        options = ("--preset", preset, "--vividness", value)
        code, out, (line,) = here("colorize", folder, "--output", tmp_path / "none", *options)
        assert (code, out) == (2, []) and message in line
    assert not (tmp_path / "none").exists()


def test_what_cannot_begin_is_told_at_once(tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "photo.jpg")
    (tmp_path / "empty").mkdir()
    out = ("--output", tmp_path / "out")
    start = time.perf_counter()
    for arguments, message in [
        (("colorize", tmp_path / "photo.jpg", *out, "--preset", "mes"), "Unknown preset 'mes'"),
        (("colorize", tmp_path / "empty", *out), "no photos"),
    ]:
        done = command(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("colorlib: ") and message in line
    assert not (tmp_path / "out").exists()
    assert time.perf_counter() - start < 10  # Without loading a backend.


def test_misspelt_and_missing_options(capsys, tmp_path):
    for arguments, message in [
        (["colorize", "photo.jpg", "--output", "out", "--presset", "paper"], "--presset"),
        (["colorize"], "PHOTO"),
        (["train", "--photos", "photos", "--output", "run", "--epochs", "many"], "'many'"),
        (["colorise"], "'colorise'"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_output_that_cannot_be_made(here, folder, tiny_run, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = here(
        "colorize", folder / "a.jpg", "--output", tmp_path / "file", "--preset", tiny_run
    )
    assert code and out == [] and len(err) == 1 and str(tmp_path / "file") in err[0]


def test_train_then_colorize_with_the_run(here, sample, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sample[:8]:
        shutil.copy(path, folder)
    train = ("train", "--photos", folder, "--output", tmp_path / "run", "--epochs", "2")
    train += (
        "--network",
        "paper",
        "--steps-per-epoch",
        "1",
        "--scales",
        "0.8,1.2",
        "--batch",
        "2",
        "--size",
        "24,32",
        "--short-side",
        "40",
    )
    code, out, err = here(*train)
    assert (code, err) == (0, [])
    assert any("8 photos" in line for line in out)
    assert str(tmp_path / "run") in out[-1]
    assert here(*train)[0] == 0  # Finished: at once.
    code, _, (line,) = here(*train, "--seed", "2")
    assert code == 2 and "seed: 1 -> 2" in line

    code, out, err = here(
        "colorize", folder, "--output", tmp_path / "out", "--preset", tmp_path / "run"
    )
    assert (code, err, len(out)) == (0, ["colorlib: 8 colored"], 8)

    code, _, err = here("package", tmp_path / "run", "--output", tmp_path / "preset")
    assert (code, err) == (0, [])
    assert {path.name for path in (tmp_path / "preset").iterdir()} == {
        *("card.json", "manifest.csv.gz", "weights.weights.h5")
    }


def test_training_on_nothing(here, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in [("empty", "no photos"), ("missing", "no such")]:
        code, _, err = here("train", "--photos", tmp_path / name, "--output", tmp_path / "run")
        assert code == 2 and len(err) == 1 and message in err[0]
    code, _, (line,) = here("train", "--photos", tmp_path, "--output", "run", "--ema", "2")
    assert code == 2 and line == "colorlib: ema must be in 0..1, or None. Received: ema=2.0"
    assert not (tmp_path / "run").exists()
