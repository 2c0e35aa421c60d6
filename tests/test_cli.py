"""The command line: what a user types, what it leaves, and the line that says what is wrong."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from skimage.color import rgb2lab

from colorlib import archive, photos
from colorlib.__main__ import main
from colorlib.metadata import MACHINE_COLORED
from colorlib.presets import load_card


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
        for more in ((), ("--dry-run",)):
            options += ("--output", tmp_path / "none", *more)
            code, out, (line,) = here("colorize", folder, *options)
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


@pytest.mark.parametrize("card", ["{", "[]", "{}", "1", '"name"', b"\xff", "no backbone"])
def test_a_damaged_card_is_named_by_every_command(here, folder, tiny_run, tmp_path, card):
    run, out = shutil.copytree(tiny_run, tmp_path / "run"), ("--output", tmp_path / "out")
    if card == "no backbone":
        card = json.dumps(load_card(tiny_run) | {"embedding": {}})
    (run / "card.json").write_bytes(card if isinstance(card, bytes) else card.encode())
    for arguments in (
        ("colorize", folder, *out, "--preset", run),
        ("train", "--photos", folder, *out, "--from", run),
        ("package", run, *out),
    ):
        code, lines, (line,) = here(*arguments)
        assert (code, lines) == (2, [])
        assert line.startswith(f"colorlib: {run / 'card.json'}: damaged card")
    assert not (tmp_path / "out").exists()


def test_a_folder_and_a_preset_of_one_name(here, folder, tiny_run, tmp_path, monkeypatch):
    """The name means the preset, a path the folder."""
    shutil.copytree(tiny_run, tmp_path / "paper")
    monkeypatch.chdir(tmp_path)
    for preset, name in [("paper", "paper"), ("./paper", "tiny"), (tmp_path / "paper", "tiny")]:
        assert archive.options(preset).made_by.endswith(f"preset {name}")
    assert here("package", "paper", "--output", "new", "--keep", "0.5")[0] == 2  # from random ones
    assert here("package", "paper", "--output", "new")[0] == 0
    assert load_card("./new")["config"] == load_card(tiny_run)["config"]
    (tmp_path / "pyramid").mkdir()
    photo = folder / "a.jpg"
    assert here("colorize", photo, "--preset", "pyramid", "--dry-run", "--output", "out")[0] == 0


def test_metadata_goes_with_a_photo_unless_it_is_stripped(here, tiny_run, tmp_path):
    scan = Path(__file__).parent / "cases" / "scan_600dpi_exif_date_copyright_gps.jpg"
    for options, kept in ((), True), (("--strip",), False):
        target = tmp_path / f"{kept}.jpg"
        options = ("--output", target, "--preset", tiny_run, *options)
        assert here("colorize", scan, *options) == (0, [str(target)], ["colorlib: 1 colored"])
        with Image.open(target) as image:
            block = image.getexif()
        assert (block.get(ExifTags.Base.ImageDescription) == "On the porch, 1938") == kept
        assert bool(block.get_ifd(ExifTags.IFD.GPSInfo)) == kept
        assert (MACHINE_COLORED.encode() in target.read_bytes()) == kept


def test_help_lists_the_options_of_each_command(capsys):
    for command, options in [
        ("colorize", ("--output", "--vividness", "--overwrite", "--dry-run", "--strip")),
        ("train", ("--photos", "--validation", "--from", "--precision", "--paper", "--distribute")),
        ("package", ("--output", "--evaluate")),
    ]:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert set(options) <= set(capsys.readouterr().out.replace(",", " ").split())


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


@pytest.mark.slow
def test_train_then_package_the_run(here, sample, tmp_path):
    folders = tmp_path / "photos", tmp_path / "held back"
    for folder, paths in zip(folders, (sample[:6], sample[6:8]), strict=True):
        folder.mkdir()
        for path in paths:
            shutil.copy(path, folder)
    run, preset = tmp_path / "run", tmp_path / "preset"
    train = ("train", "--photos", folders[0], "--output", run, "--precision", "mixed_bfloat16")
    train += ("--epochs", "1", "--steps-per-epoch", "1", "--batch", "2", "--size", "32")
    train += ("--short-side", "40", "--scales", "0.8,1.2")
    code, out, err = here(*train)
    assert (code, err) == (0, [])
    assert any("6 photos" in line for line in out)
    assert str(run) in out[-1]
    assert here(*train)[0] == 0  # Finished: at once.
    code, _, (line,) = here(*train, "--seed", "2")
    assert code == 2 and "seed: 1 -> 2" in line

    options = ("--evaluate", folders[1], "--vividness", "0.7")
    code, _, err = here("package", run, "--output", preset, *options)
    assert (code, err) == (0, [])
    assert {path.name for path in preset.iterdir()} == {
        *("card.json", "manifest.csv.gz", "scores.parquet", "weights.weights.h5")
    }
    card = load_card(preset)
    assert card["network"] == "pyramid" and card["config"]["precision"] == "mixed_bfloat16"
    assert [result["vividness"] for result in card["results"]["held back"]] == [0, 0.7]


@pytest.mark.slow
def test_the_papers_training_says_where_to_put_the_weights_of_its_backbone(
    here, sample, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLORLIB_WEIGHTS", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    train = ("train", "--paper", "--photos", sample[0].parent, "--output", tmp_path / "run")
    code, _, (line,) = here(*train, "--epochs", "10")
    assert code == 2 and line.startswith("colorlib: Backbone InceptionResNetV2: no weights")
    assert "put inception_resnet_v2_weights_tf_dim_ordering_tf_kernels.h5 into" in line
    for way in (f"none in COLORLIB_WEIGHTS={tmp_path}", "network", "backbone_weights"):
        assert way in line


def test_training_on_nothing(here, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in [("empty", "no photos"), ("missing", "no such")]:
        code, _, err = here("train", "--photos", tmp_path / name, "--output", tmp_path / "run")
        assert code == 2 and len(err) == 1 and message in err[0]
    code, _, (line,) = here("train", "--photos", tmp_path, "--output", "run", "--ema", "2")
    assert code == 2 and line == "colorlib: ema must be in 0..1, or None. Received: ema=2.0"
    assert not (tmp_path / "run").exists()
