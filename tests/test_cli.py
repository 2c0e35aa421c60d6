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


@pytest.fixture
def here(capsys):
    """The command in this process: (exit code, lines of stdout, lines of stderr)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

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


def test_a_photo(here, folder, tiny_run, tmp_path):
    code, out, err = here(
        "colorize", folder / "a.jpg", "--output", tmp_path / "new" / "out", "--preset", tiny_run
    )
    assert (code, err) == (0, [])
    assert out == [str(tmp_path / "new" / "out" / "a.jpg")]
    before, after = photos.read(folder / "a.jpg"), photos.read(out[0])
    assert before.shape == after.shape
    assert np.abs(rgb2lab(before) - rgb2lab(after))[..., 0].mean() < 1


def test_a_folder_with_a_broken_file_in_it(folder, tiny_run, tmp_path):
    (folder / "trip" / "broken.jpg").write_text("no photo")
    done = command("colorize", folder, "--output", tmp_path / "out", "--preset", tiny_run)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"colorlib: {folder / 'trip' / 'broken.jpg'}: ")
    written = ["a.jpg", "trip/a.jpg", "trip/day 2/b.jpg"]
    assert done.stdout.splitlines() == [str(tmp_path / "out" / name) for name in written]
    assert photos.find(tmp_path / "out") == [tmp_path / "out" / name for name in written]


def test_formats_that_are_only_read_become_png(here, tiny_run, tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "photo.gif")
    photos.write(tmp_path / "deep.tif", np.full((10, 20, 3), 30000, np.uint16))
    code, out, _ = here(
        *("colorize", tmp_path / "photo.gif", tmp_path / "deep.tif"),
        *("--output", tmp_path / "out", "--preset", tiny_run),
    )
    assert code == 0
    assert out == [str(tmp_path / "out" / name) for name in ("photo.png", "deep.tif")]
    assert photos.read(out[1]).dtype == np.uint16


def test_no_input_and_no_result_is_overwritten(here, folder, tiny_run, tmp_path):
    preset = ("--preset", tiny_run)
    before = {path: path.read_bytes() for path in folder.rglob("*.jpg")}
    code, out, err = here("colorize", folder, "--output", folder, *preset)
    assert (code, out, len(err)) == (1, [], 3)
    assert all("overwrite" in line for line in err)

    # Neither another's input, here under another name, nor what was written a moment ago.
    os.link(folder / "a.jpg", tmp_path / "b.jpg")
    code, out, err = here(
        "colorize", tmp_path / "b.jpg", folder / "trip" / "a.jpg", "--output", folder, *preset
    )
    assert code == 1 and out == [str(folder / "b.jpg")] and len(err) == 1
    code, out, err = here(
        *("colorize", folder / "a.jpg", folder / "trip" / "a.jpg"),
        *("--output", tmp_path / "out", *preset),
    )
    assert code == 1 and len(out) == len(err) == 1
    assert {path: path.read_bytes() for path in before} == before


def test_vividness(here, folder, tiny_run, tmp_path):
    photo, chroma = folder / "a.jpg", []
    for value in ("0", "1"):
        options = ("--preset", "pyramid", "--vividness", value)
        code, (path,), err = here("colorize", photo, "--output", tmp_path / value, *options)
        assert (code, err) == (0, [])
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


def test_a_text_file_named_jpg_and_a_missing_one(here, tiny_run, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    for name in ("text.jpg", "missing.jpg"):
        code, out, err = here(
            "colorize", tmp_path / name, "--output", tmp_path / "out", "--preset", tiny_run
        )
        assert (code, out, len(err)) == (1, [], 1)
        assert name in err[0]
    assert os.listdir(tmp_path / "out") == []


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
        (["colorize", "photo.jpg"], "--output"),
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
    assert (code, err, len(out)) == (0, [], 8)

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
