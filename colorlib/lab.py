"""CIE Lab: one code for NumPy arrays and for tensors inside a compiled step.

sRGB (IEC 61966-2-1) and CIE Lab with the D65 white point of the 2 degree observer, with the
constants of scikit-image, against which the tests hold it. Everything is computed in float32
whatever the precision policy: in bfloat16 the conversion is off by four units of Lab.

Arrays have the channels last: RGB in 0..1, L in 0..100, a and b in about -128..127. An array gives
an array, computed by NumPy, whose powers are ten times as fast on a CPU as TensorFlow's; a tensor
gives a tensor of Keras' backend.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from PIL import Image

AB_SCALE = 127.0
AB_MIN, AB_MAX = -128.0, 127.0
AB_GRID = 10  # side of an ab bin, as in Zhang et al. 2016, section 2.1
NEAR_GRAY = 4.0  # a photo whose mean chroma is below it counts as gray
AB_BINS = 23  # bins along a and b, centered on -110, -100, ... 110; sRGB ends at -108 and 98

_STRIP = 1 << 16  # Pixels whose Lab is in memory at a time: what a core's cache holds.
_FEW_STRIPS = 8  # Below this, starting threads takes longer than they save.

_XYZ_FROM_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_RGB_FROM_XYZ = np.linalg.inv(_XYZ_FROM_RGB)
_WHITE = (0.95047, 1.0, 1.08883)


def _float32(x):
    """The namespace that computes with `x`, NumPy or `keras.ops`, and `x` as its float32."""
    if isinstance(x, np.ndarray):
        return np, x.astype("float32", copy=False)
    from keras import ops  # takes seconds, and arrays do without

    return ops, ops.cast(ops.convert_to_tensor(x), "float32")


def _channels(x):
    xp, x = _float32(x)
    if x.shape[-1] != 3:
        raise ValueError(f"The last axis must be 3 channels. Received: shape={tuple(x.shape)}")
    return xp, x[..., 0], x[..., 1], x[..., 2]


def _mix(matrix, channels):
    # Spelled out, not a matmul: GPUs round matmul inputs to TF32, which shows in Lab.
    x, y, z = channels
    return [float(row[0]) * x + float(row[1]) * y + float(row[2]) * z for row in matrix]


def _linear(xp, c):
    """sRGB's values, in 0..1, to linear light."""
    return xp.where(c > 0.04045, ((xp.maximum(c, 0.04045) + 0.055) / 1.055) ** 2.4, c / 12.92)


def _cube_root(xp, t):
    """CIE Lab's f: a cube root with a straight part near black."""
    return xp.where(t > 0.008856, xp.maximum(t, 0.008856) ** (1.0 / 3.0), 7.787 * t + 16.0 / 116.0)


def rgb_to_lab(rgb):
    """sRGB to CIE Lab.

    Args:
        rgb: array or tensor (..., 3). sRGB in 0..1, any float type.

    Returns:
        float32 array or tensor (..., 3): L in 0..100, a, b.
    """
    xp, *channels = _channels(rgb)
    linear = [_linear(xp, c) for c in channels]
    x, y, z = (
        _cube_root(xp, c / w) for c, w in zip(_mix(_XYZ_FROM_RGB, linear), _WHITE, strict=True)
    )
    return xp.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-1)


def _lab_to_linear_rgb(xp, lightness, a, b):
    fy = (lightness + 16.0) / 116.0
    xyz = [
        w * xp.where(f > 0.2068966, f * f * f, (f - 16.0 / 116.0) / 7.787)
        for f, w in zip((fy + a / 500.0, fy, xp.maximum(fy - b / 200.0, 0.0)), _WHITE, strict=True)
    ]
    return _mix(_RGB_FROM_XYZ, xyz)


def _gamma(xp, c):
    """Linear light to sRGB's values, clipped to 0..1."""
    bent = 1.055 * xp.maximum(c, 0.0031308) ** (1.0 / 2.4) - 0.055
    return xp.clip(xp.where(c > 0.0031308, bent, 12.92 * c), 0.0, 1.0)


def lab_to_rgb(lab):
    """CIE Lab to sRGB; what lies outside sRGB is clipped per channel.

    Clipping moves L by up to 20 units: bring predicted colors into gamut with `fit_gamut` first.

    Args:
        lab: array or tensor (..., 3). L in 0..100, a, b.

    Returns:
        float32 array or tensor (..., 3): sRGB in 0..1.
    """
    xp, *channels = _channels(lab)
    return xp.stack([_gamma(xp, c) for c in _lab_to_linear_rgb(xp, *channels)], axis=-1)


def lightness_of_film(rgb, emulsion):
    """The L of the gray photo that a film with this sensitivity makes of a color photo.

    Args:
        rgb: array or tensor (..., 3). sRGB in 0..1.
        emulsion: array or tensor that broadcasts to it. Weights of red, green and blue light, of
            sum 1, so that white and grays stay what they are. `(0.2126, 0.7152, 0.0722)` is the
            eye's, which gives the photo's own L; `(0, 0.5, 0.5)` is blind to red.

    Returns:
        float32 array or tensor (..., 1): L in 0..100.
    """
    xp, rgb = _float32(rgb)
    light = xp.sum(_linear(xp, rgb) * emulsion, axis=-1, keepdims=True)
    return 116.0 * _cube_root(xp, light) - 16.0


def l_to_gray(lightness):
    """The sRGB gray of an L.

    Args:
        lightness: array or tensor, any shape. L in 0..100.

    Returns:
        float32 array or tensor of that shape: sRGB in 0..1, the same for red, green and blue.
    """
    xp, lightness = _float32(lightness)
    f = (lightness + 16.0) / 116.0
    return _gamma(xp, xp.where(f > 0.2068966, f * f * f, (f - 16.0 / 116.0) / 7.787))


def _inside(xp, lightness, a, b, tolerance):
    return _in_unit(xp, _lab_to_linear_rgb(xp, lightness, a, b), tolerance)


def _in_unit(xp, rgb, tolerance):
    lowest = xp.minimum(xp.minimum(rgb[0], rgb[1]), rgb[2])
    highest = xp.maximum(xp.maximum(rgb[0], rgb[1]), rgb[2])
    return (lowest >= -tolerance) & (highest <= 1.0 + tolerance)


def fit_gamut(lab, steps=12, tolerance=1e-4):
    """Brings colors into sRGB by reducing their chroma at constant L and hue.

    The largest chroma that fits is found by bisection, to 1/4096 of the given chroma. (In bright
    yellow, L above 90, a ray from gray can leave sRGB and come back: it may be the first exit.)

    Args:
        lab: array or tensor (..., 3). L in 0..100, a, b; a and b are clipped to [-128, 127].
        steps: int. Halvings of the interval. Defaults to 12.
        tolerance: float. How far linear light may lie outside sRGB. Defaults to 1e-4, which 8 bits
            don't show; clipping what is left moves L by up to 0.07.

    Returns:
        float32 array or tensor (..., 3): the same L; a and b scaled by a common factor in 0..1.
    """
    xp, lightness, a, b = _channels(lab)
    lightness = xp.clip(lightness, 0.0, 100.0)
    a, b = xp.clip(a, AB_MIN, AB_MAX), xp.clip(b, AB_MIN, AB_MAX)
    low = xp.where(_inside(xp, lightness, a, b, tolerance), xp.ones_like(a), xp.zeros_like(a))
    width = 1.0 - low
    for _ in range(steps):
        width = width / 2.0
        middle = low + width
        low = xp.where(_inside(xp, lightness, a * middle, b * middle, tolerance), middle, low)
    return xp.stack([lightness, a * low, b * low], axis=-1)


def scale_l(lightness):
    """L in 0..100 to the network's input in -1..1: `2 L / 100 - 1` (the paper, section 2)."""
    return lightness / 50.0 - 1.0


def unscale_l(x):
    """The inverse of `scale_l`."""
    return (x + 1.0) * 50.0


def scale_ab(ab):
    """a and b, clipped to [-128, 127], to the network's target: `ab / 127`."""
    xp, ab = _float32(ab)
    return xp.clip(ab, AB_MIN, AB_MAX) / AB_SCALE


def unscale_ab(x):
    """The inverse of `scale_ab`, clipped to [-128, 127]."""
    xp, x = _float32(x)
    return xp.clip(x * AB_SCALE, AB_MIN, AB_MAX)


def in_strips(work, height, width, multiple=1):
    """Calls `work` with slices of rows, few enough for a processor's cache, that make up a photo.

    Args:
        work: callable of a slice. A large photo's run in threads, side by side.
        height, width: int. The photo's, px.
        multiple: int. Each slice but the last has a multiple of so many rows. Defaults to 1.

    Returns:
        list of what it returns, from the top down.
    """
    rows = multiple * max(1, _STRIP // width // multiple)
    slices = [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
    if len(slices) < _FEW_STRIPS:
        return list(map(work, slices))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, slices))


def lightness(rgb, reduce=1):
    """L of a photo.

    Args:
        rgb: uint8 or uint16 array (H, W, 3). sRGB.
        reduce: int. The mean of so many by so many pixels makes one; at the right and lower edge,
            of what is left there. Defaults to 1.

    Returns:
        float32 array (H, W) in 0..100, or smaller by `reduce`, rounded up.
    """
    tables = _luminance(rgb.dtype)

    def lightness_of(rows):
        luminance = sum(table.take(rgb[rows, :, i]) for i, table in enumerate(tables))
        plane = 116.0 * _cube_root(np, luminance) - 16.0
        return plane if reduce == 1 else Image.fromarray(plane).reduce(reduce)

    return np.concatenate(in_strips(lightness_of, *rgb.shape[:2], reduce))


@cache
def _luminance(dtype):
    """What each integer value of red, green and blue adds to Y: float32 array (3, values)."""
    values = np.arange(np.iinfo(dtype).max + 1) / np.iinfo(dtype).max
    return (np.outer(_XYZ_FROM_RGB[1], _linear(np, values))).astype("float32")


def recombine(lightness, ab, dtype=np.uint8):
    """Puts color under a lightness that stays as it is.

    Colors outside sRGB lose chroma until they fit, at constant L and hue; clipping RGB instead
    would move L by up to 20 units.

    Args:
        lightness: float array (H, W). L in 0..100.
        ab: float array (H, W, 2), in Lab units.
        dtype: np.uint8 or np.uint16. Defaults to uint8.

    Returns:
        sRGB array (H, W, 3) of that type.
    """
    top = np.iinfo(dtype).max
    tolerance = 5e-6  # of linear light; more, clipped, would show in the L of 16 bits
    output = np.empty((*lightness.shape, 3), dtype)

    def color(rows):
        color = [np.float32(c) for c in (lightness[rows], ab[rows, :, 0], ab[rows, :, 1])]
        linear = _lab_to_linear_rgb(np, *color)
        outside = ~_in_unit(np, linear, tolerance)
        if outside.any():
            # Black and white have room for no color. Scanned pages are full of them.
            ends = outside & ((color[0] < 1e-4) | (color[0] > 100 - 1e-4))
            for plane in linear:
                plane[ends] = color[0][ends] > 50
            outside &= ~ends
            beyond = np.stack([c[outside] for c in color], -1)
            fitted = fit_gamut(beyond, steps=8, tolerance=tolerance)
            for plane, values in zip(linear, _lab_to_linear_rgb(np, *fitted.T), strict=True):
                plane[outside] = values
        for channel, plane in enumerate(linear):
            if dtype == np.uint8:  # A table takes a third of the time.
                codes = _codes().take((plane * 65535 + 0.5).astype(np.int32), mode="clip")
            else:
                codes = np.rint(_gamma(np, plane) * top)
            output[rows, :, channel] = codes

    in_strips(color, *lightness.shape)
    return output


@cache
def _codes():
    """The 8-bit sRGB value of linear light, in 65536 steps: uint8 array."""
    return np.rint(255 * _gamma(np, np.linspace(0, 1, 65536))).astype(np.uint8)


def ab_bin(ab):
    """The bin of the ab grid of each color (..., 2): two int64 arrays, row and column."""
    bins = np.floor(np.asarray(ab, np.float64) / AB_GRID + AB_BINS / 2)
    a, b = np.moveaxis(np.clip(bins, 0, AB_BINS - 1).astype(np.int64), -1, 0)
    return a, b


def ab_bin_counts(ab):
    """How many colors fall into each bin of the ab grid of 10; sum it over the training photos.

    Args:
        ab: array (..., 2) in units of Lab. What lies outside -115..115 counts at the border.

    Returns:
        int64 array (23, 23): rows a, columns b, bin centers -110, -100, ... 110.
    """
    a, b = ab_bin(ab)
    counts = np.bincount((a * AB_BINS + b).ravel(), minlength=AB_BINS**2)
    return counts.astype(np.int64).reshape(AB_BINS, AB_BINS)


def gray(rgb, emulsion=tuple(_XYZ_FROM_RGB[1])):
    """The gray photo that a film with this sensitivity makes of a color photo.

    Args:
        rgb: uint8 sRGB array (H, W, 3).
        emulsion: three weights of red, green and blue light; brought to a sum of 1, so that white
            and grays stay what they are. Defaults to the eye's, about `(0.213, 0.715, 0.072)`:
            the gray of the photo's own L, which is what a network sees. `(0, 1, 1)` is blind to
            red.

    Returns:
        uint8 array (H, W).
    """
    weights = np.float32(emulsion) / np.sum(emulsion, dtype="float32")

    def gray_of(rows):
        plane = lightness_of_film(rgb[rows] / np.float32(255), weights)[..., 0]
        return np.rint(255 * l_to_gray(plane)).astype(np.uint8)

    return np.concatenate(in_strips(gray_of, *rgb.shape[:2]))
