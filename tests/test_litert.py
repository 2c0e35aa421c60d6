"""The LiteRT file of a preset gives the colors of its Keras network."""

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from colorlib import ColorlibError, framing, lab, litert, photos, presets
from colorlib.litert import LiteColorizer, exported, file


def in_shape(rgb, height, width):
    """The upper left part of a photo, as large as it can be in the shape of height x width."""
    scale = min(rgb.shape[0] / height, rgb.shape[1] / width)
    return rgb[: int(scale * height), : int(scale * width)]


# `tiny_run` has the network of `paper`, at a smaller size.
SLOW = [pytest.param(preset, marks=pytest.mark.slow) for preset in ("pyramid", "paper")]


@pytest.mark.parametrize("preset", ["tiny_run", *SLOW])
def test_colors_are_those_of_keras(preset, colorizers, tiny_run):
    """In every working shape, each of which has a file of its own."""
    preset = tiny_run if preset == "tiny_run" else preset
    keras, lite = colorizers(preset), LiteColorizer(exported(preset))
    shapes = framing.working_shapes(lite.working_size)
    paths = photos.packaged("sample")["path"][:: 54 // len(shapes)]
    # A working shape's short side is the working size, rounded up.
    short, side = min(shapes[0]), lite.working_size
    parts = [[side if n == short else n for n in shape] for shape in shapes]
    originals = [in_shape(photos.read(path), *n) for path, n in zip(paths, parts, strict=False)]
    planes = list(map(lab.lightness, originals))
    prepared = list(map(keras.prepare, planes))
    assert [photo.plane.shape for photo in prepared] == shapes
    for vividness in (None, 0.2) if keras.architecture.vividness else (None,):
        maps = lite.predict_maps(prepared, vividness)
        for plane, ab, expected in zip(
            planes, maps, keras.predict_ab(planes, vividness=vividness), strict=True
        ):
            rgb, wanted = (
                lab.recombine(plane, color).astype(int)
                for color in (framing.enlarge(ab, *plane.shape), expected)
            )
            assert np.percentile(np.abs(rgb - wanted), 99.9) <= 2


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The folders that were exported to, in an empty cache; nothing but the record is in them."""
    made = []

    def record(name, folder, size, raw):
        made.append(folder)
        time.sleep(0.2)
        folder.mkdir()
        (folder / litert.record_file(raw)).touch()

    monkeypatch.setenv("COLORLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(litert, "export", record)
    return made


def test_what_several_ask_for_at_once_is_made_once(tiny_run, made):
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(exported, [tiny_run] * 3))
    assert folders == set(made) and len(made) == 1


def test_another_card_is_another_export(tiny_run, tmp_path, made):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    card = presets.load_card(run)
    first = exported(run)
    presets.write_card(run, card | {"colors": card["colors"] | {"mean_ab": [0.0, 0.0]}})
    assert exported(run) != first
    presets.write_card(run, card)
    assert exported(run) == first and len(made) == 2


@pytest.mark.slow
def test_raw_files_share_the_file_of_the_backbone(tiny_run):
    folder = exported(tiny_run)
    before = (folder / "embed.tflite").stat().st_mtime_ns
    assert exported(tiny_run, raw=True) == folder
    assert (folder / "embed.tflite").stat().st_mtime_ns == before
    shapes = framing.working_shapes(LiteColorizer(folder).working_size)
    assert {path.name for path in folder.glob("raw*")} == {
        "raw.json",
        *(file(*shape, raw=True) for shape in shapes),
    }


@pytest.mark.slow
def test_a_vividness_is_checked_as_by_keras(tiny_run):
    pyramid, paper = LiteColorizer(exported("pyramid")), LiteColorizer(exported(tiny_run))
    with pytest.raises(ColorlibError, match="must be in 0..1. Received: 2"):
        pyramid.predict_maps([], 2)
    with pytest.raises(ColorlibError, match="tiny gives one color"):
        paper.predict_maps([], 0.5)


def test_a_fresh_process_colors_without_keras(colorizers, tmp_path):
    exported()
    photo, target = photos.packaged("sample")["path"][0], tmp_path / "out.png"
    code = (
        "import sys; from colorlib.__main__ import main; "
        f"assert main(['colorize', {str(photo)!r}, '--output', {str(target)!r}]) == 0; "
        "print({'keras', 'tensorflow', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(target), "set()"]
    assert done.stderr == "colorlib: 1 colored\n"
    plane = lab.lightness(photos.read(photo))
    (expected,) = colorizers("pyramid").predict_ab([plane])
    error = photos.read(target).astype(int) - lab.recombine(plane, expected)
    assert np.percentile(np.abs(error), 99.9) <= 2
