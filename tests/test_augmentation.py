"""Crops come to size as Pillow brings them; prints look old, and lose no color but their border."""

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from colorlib import augmentation, lab, photos

pytestmark = pytest.mark.backend


def seed(number=1):
    return keras.random.SeedGenerator(number)


@pytest.fixture(scope="module")
def lightness():
    """L of 64 crops, an even ramp in each."""
    ramp = np.linspace(20, 80, 48, dtype="float32")
    return np.broadcast_to(ramp[None, :, None, None], (64, 48, 48, 1)).copy()


@pytest.mark.parametrize("size", [20, 48, 70])
def test_resampling_is_pillows(sample, size):
    window = photos.read(sample[1])[:48, :48].astype("float32") / 255
    boxes = np.float32([[0, 0, 48], [3.5, 10.25, 30], [20, 0, 28], [11, 13, 17.3]])
    output = augmentation.resample(np.stack([window] * 4), boxes, size)
    output = ops.convert_to_numpy(output)
    for (top, left, side), result in zip(boxes, output, strict=True):
        for channel in range(3):
            expected = Image.fromarray(window[..., channel]).resize(
                (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
            )
            inside = (slice(1, -1),) * 2  # Pillow looks beyond the box at its border.
            np.testing.assert_allclose(
                result[..., channel][inside], np.asarray(expected)[inside], atol=1e-4
            )


def gray(lightness):
    """sRGB of an L, three equal channels in 0..1."""
    return np.repeat(lab.l_to_gray(lightness), 3, axis=-1)


def test_film_changes_every_photo(lightness):
    output, border = augmentation.film(gray(lightness), lightness, seed())
    output, border = map(ops.convert_to_numpy, (output, border))
    assert (np.abs(output - lightness).max(axis=(1, 2, 3)) > 0.1).all()
    assert output.shape == border.shape == lightness.shape
    assert output.min() >= 0 and output.max() <= 100
    assert set(np.unique(border)) <= {0, 1}


def test_half_of_the_films_are_half_blind_to_red(lightness):
    red, blue = (np.zeros((64, 48, 48, 3), "float32") for _ in range(2))
    red[..., 0], blue[..., 2] = 1, 1
    eye = lab.rgb_to_lab(np.float32([[1, 0, 0], [0, 0, 1]]))[:, 0]
    means = {}
    for name, rgb, own in (("red", red, eye[0]), ("blue", blue, eye[1])):
        plane = np.full_like(lightness, own)
        output, border = map(ops.convert_to_numpy, augmentation.film(rgb, plane, seed()))
        means[name] = output[~border.any(axis=(1, 2, 3))].mean(axis=(1, 2, 3))
    gap = means["red"] - means["blue"]
    assert (gap > 0).mean() > 0.4 and (gap < 0).mean() > 0.2  # To the eye red is the lighter one.


def test_borders_are_even_and_lie_at_the_edge(lightness):
    output, border = map(
        ops.convert_to_numpy, augmentation.film(gray(lightness), lightness, seed())
    )
    framed = border.any(axis=(1, 2, 3))
    assert 3 <= framed.sum() <= 30  # A fifth of 64.
    assert not border[:, 8:-8, 8:-8].any()
    for print_, mask in zip(output[framed], border[framed], strict=True):
        assert np.ptp(print_[mask == 1]) < 1e-3


def test_what_is_erased_is_an_even_rectangle(lightness):
    output = ops.convert_to_numpy(augmentation.erase(lightness, 1.0, seed()))
    for covered, before in zip(output[..., 0], lightness[..., 0], strict=True):
        rows, columns = np.nonzero(np.abs(covered - before) > 1e-3)
        assert len(rows), "nothing is covered"
        part = covered[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert np.ptp(part) < 1e-3
        assert np.ptp(rows) < 26 and np.ptp(columns) < 26
    assert np.array_equal(augmentation.erase(lightness, 0.0, seed()), lightness)


def test_equal_seeds_make_equal_prints(lightness):
    one, two, other = (
        ops.convert_to_numpy(augmentation.film(gray(lightness), lightness, seed(number))[0])
        for number in (1, 1, 2)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)
