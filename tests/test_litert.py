"""The LiteRT file of a preset gives the colors of its Keras network."""

import subprocess
import sys

import numpy as np
import pytest

from colorlib import Colorizer, ColorlibError, framing, lab, photos
from colorlib.litert import LiteColorizer, exported


@pytest.mark.parametrize("preset", ["pyramid", "paper"])
def test_colors_are_those_of_keras(preset):
    keras, lite = Colorizer.from_preset(preset), LiteColorizer(exported(preset))
    originals = [photos.read(path) for path in photos.packaged("sample")["path"][::3]]
    originals += [originals[0][:, :150], originals[1][:80]]  # an upright and a long one
    planes = list(map(lab.lightness, originals))
    for vividness in (None, 0.2) if keras.architecture.vividness else (None,):
        maps = lite.predict_maps(list(map(lite.prepare, planes)), vividness)
        for plane, ab, expected in zip(
            planes, maps, keras.predict_ab(planes, vividness=vividness), strict=True
        ):
            rgb, wanted = (
                lab.recombine(plane, color).astype(int)
                for color in (framing.enlarge(ab, *plane.shape), expected)
            )
            assert np.percentile(np.abs(rgb - wanted), 99.9) <= 2


def test_a_vividness_is_checked_as_by_keras():
    pyramid, paper = LiteColorizer(exported("pyramid")), LiteColorizer(exported("paper"))
    with pytest.raises(ColorlibError, match="must be in 0..1. Received: 2"):
        pyramid.predict_maps([], 2)
    with pytest.raises(ColorlibError, match="paper gives one color"):
        paper.predict_maps([], 0.5)


def test_a_fresh_process_colors_without_keras(tmp_path):
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
    (expected,) = Colorizer.from_preset().predict_ab([plane])
    error = photos.read(target).astype(int) - lab.recombine(plane, expected)
    assert np.percentile(np.abs(error), 99.9) <= 2
