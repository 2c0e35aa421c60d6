"""From a photo to a network's input and back: few shapes, without a backend.

Whatever a photo's aspect ratio, it goes through a network in one of a handful of shapes, so that
batches fill, and a program is compiled for each shape and not for each photo.
"""

from typing import NamedTuple

import numpy as np

from colorlib import lab, photos

_LONGER = (1.0, 1.43, 1.86, 2.86)  # Sides of the working shapes: long over short.
_FLAT = 3.0  # units of L by which a flat surround may differ from its median
STEP = 32  # Heights and widths of working shapes are multiples of it, as any network wants them.


def working_shapes(size):
    """The few shapes (height, width), px, in which all photos go through a network.

    Args:
        size: int. The working size: the short side of a photo, px.
    """
    short = STEP * -(-size // STEP)
    longs = [max(short, STEP * round(size * ratio / STEP)) for ratio in _LONGER]
    return list(dict.fromkeys(shape for n in longs for shape in ((short, n), (n, short))))


class Prepared(NamedTuple):
    """A photo's L as a network sees it, and where in it the photo lies."""

    plane: np.ndarray  # of a working shape, in 0..100
    square: np.ndarray | None  # what an `Embedder` sees of it, where the network is told that
    top: int
    left: int
    height: int
    width: int

    def color(self, maps):
        """The photo's part of a map of ab, with what surrounds a print left gray."""
        ab, plane = self.crop(maps), self.crop(self.plane)
        height, width = ab.shape[:2]
        blocks = plane.reshape(height, plane.shape[0] // height, width, plane.shape[1] // width)
        return np.where(surround(blocks.mean(axis=(1, 3)))[..., None], 0, ab)

    def crop(self, maps):
        """The photo's part of a map (h, w, ...), which may be smaller than `plane` by a factor."""
        scale = self.plane.shape[0] // maps.shape[0]
        rows, columns = (
            slice(start // scale, (start + length) // scale)
            for start, length in ((self.top, self.height), (self.left, self.width))
        )
        return maps[rows, columns]


def frame(lightness, size, square=None):
    """Brings a photo to the working size, in the middle of one of the `working_shapes`.

    Its mirror image fills the rest of the shape.

    Args:
        lightness: float array (H, W), L in 0..100.
        size: int. The working size, px.
        square: int or None. Side of the `center_square` that an embedder wants, px.

    Returns:
        Prepared.
    """
    height, width = lightness.shape
    largest = size / min(height, width)
    shapes = [s for s in working_shapes(size) if s[0] <= s[1] or height > width]
    # A shape may be a little too short for a photo, which then becomes a little smaller.
    fits = [min(largest, shape[0] / height, shape[1] / width) for shape in shapes]
    chosen = next((i for i, fit in enumerate(fits) if fit > 0.94 * largest), np.argmax(fits))
    # Multiples of 4, so that a network's smaller map can be cut along its own pixels.
    photo = [
        int(np.clip(4 * round(n * fits[chosen] / 4), 4, limit))
        for n, limit in zip((height, width), shapes[chosen], strict=True)
    ]
    before = [(limit - n) // 8 * 4 for n, limit in zip(photo, shapes[chosen], strict=True)]
    after = np.subtract(shapes[chosen], photo) - before
    small = np.clip(photos.resize(lightness, *photo), 0.0, 100.0)
    padded = np.pad(small, list(zip(before, after, strict=True)), mode="symmetric")
    square = None if square is None else center_square(lightness, square)
    return Prepared(padded, square, *before, *photo)


def frame_photo(rgb, size, square=None):
    """`frame` of a photo (H, W, 3), uint8 or uint16 sRGB.

    A large one is first reduced by whole numbers: its L then needs little memory.
    """
    largest = 4 * max(size, square or 0)
    return frame(lab.lightness(rgb, max(1, min(rgb.shape[:2]) // largest)), size, square)


def surround(lightness):
    """Where a flat surround lies: a mount, a paper border, a backdrop on all four sides.

    In color photos of 475 classes of ImageNet, such a surround is found in 22, and has color in 2
    of them.

    Args:
        lightness: float array (H, W), L in 0..100, of a small photo.

    Returns:
        bool array (H, W). Nowhere True unless nearly the whole edge has one lightness; else where
        that lightness goes on from the edge.
    """
    edge = np.ones(lightness.shape, bool)
    edge[1:-1, 1:-1] = False
    flat = np.abs(lightness - np.median(lightness[edge])) < _FLAT
    reached = flat & edge
    if reached.sum() < 0.97 * edge.sum():
        return np.zeros_like(edge)
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= flat
        if (grown == reached).all():
            return reached
        reached = grown


def center_square(lightness, side):
    """The square in the middle of a photo's lightness (H, W), resized to `side` px."""
    height, width = lightness.shape
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = lightness[top : top + short, left : left + short]
    return np.clip(photos.resize(square, side, side), 0.0, 100.0)


def enlarge(ab, height, width):
    """A network's map of ab at the size of its photo.

    Args:
        ab: float32 array (h, w, 2), in Lab units.
        height, width: int. The photo's, px.

    Returns:
        float32 array (H, W, 2), within -128..127.
    """
    return np.concatenate(lab.in_strips(_enlarger(ab, height, width), height, width))


def _enlarger(ab, height, width):
    """A function that enlarges a map for some of its photo's rows, a slice.

    Bicubic resizing is a weighted sum along each axis; the weights are what it makes of a map that
    is 1 in one place.
    """
    down, across = (
        photos.resize(np.eye(n, dtype="float32"), size, n)
        for n, size in zip(ab.shape[:2], (height, width), strict=True)
    )
    wide = np.moveaxis(ab, -1, 0) @ across.T

    def enlarged(rows):
        near = np.flatnonzero(down[rows].any(axis=0))
        used = slice(near[0], near[-1] + 1)
        planes = down[rows, used] @ wide[:, used]
        return np.moveaxis(np.clip(planes, lab.AB_MIN, lab.AB_MAX), 0, -1)

    return enlarged


def color(rgb, ab, output=None):
    """A photo with its own lightness and a network's colors, strip by strip.

    Args:
        rgb: uint8 or uint16 array (H, W, 3). sRGB, of which only the lightness counts.
        ab: float32 array (h, w, 2). The network's map, in Lab units.
        output: array like `rgb` to write to, or None. It may be `rgb` itself.

    Returns:
        sRGB array (H, W, 3) of that type.
    """
    output = np.empty_like(rgb) if output is None else output
    enlarged = _enlarger(ab, *rgb.shape[:2])

    def color_rows(rows):
        lightness = lab.lightness(rgb[rows])
        output[rows] = lab.recombine(lightness, enlarged(rows), rgb.dtype)

    lab.in_strips(color_rows, *rgb.shape[:2])
    return output
