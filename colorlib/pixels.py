"""Pixels: a picture of libvips or Pillow as an array in upright sRGB, and an array for libvips."""

import contextlib
import re

import numpy as np
import pyvips
from PIL import ImageOps

from colorlib import ColorlibError

_MAX = {"uchar": 255, "ushort": 65535}
COLOR_BANDS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb": 3, "rgb16": 3, "cmyk": 4}


@contextlib.contextmanager
def told_by_name(name):
    """Makes one line of libvips' errors, with the file's name and what to do."""
    try:
        yield
    except pyvips.Error as error:
        bits = re.search(r"data precision (\d+)", error.detail)
        if bits:
            raise ColorlibError(
                f"{name}: a {bits[1]}-bit JPEG, which can't be read; save it as 8-bit JPEG or as "
                "16-bit TIFF"
            ) from error
        if "nsupported" in error.detail and "marker" not in error.detail:
            raise ColorlibError(
                f"{name}: can't be read{reason(error)}; save it again with another program"
            ) from error
        raise ColorlibError(
            f"{name}: broken or cut short{reason(error)}; get a fresh copy of the file, or save "
            "it again with another program"
        ) from error


def decode(image, name, alpha=0):
    """Decodes an opened libvips image.

    Args:
        image: libvips image.
        name: str or Path. What errors call it.
        alpha: int or None. Which of the channels beside the color is transparency; None for none
            of them. Defaults to 0, the first.

    Returns:
        Contiguous array (H, W, 3) in upright sRGB, uint8 or uint16.

    Raises:
        ColorlibError: pixels that are neither 8- or 16-bit integers nor floats in 0..1.
    """
    if image.format == "float":
        image = _from_floats(image, name)
    bands = COLOR_BANDS.get(image.interpretation)
    if image.format not in _MAX or bands is None or image.bands < bands:
        raise ColorlibError(
            f"{name}: {image.bands} channels of {image.format} {image.interpretation} pixels "
            "cannot be used; save it as 8- or 16-bit RGB or gray"
        )
    image = _to_srgb(_without_extras(image, bands, alpha))
    if image.get_typeof("orientation") and image.get("orientation") > 1:
        # A turn needs pixels in another order than the file's.
        image = image.copy_memory().autorot()
    array = image.numpy().reshape(image.height, image.width, image.bands)
    return np.repeat(array, 3, axis=2) if image.bands == 1 else array


def _from_floats(image, name):
    image = image.copy_memory()
    _check_range(image.numpy(), f"{name}: float pixels")
    gray = image.interpretation in ("b-w", "grey16")
    kind = image.interpretation if image.interpretation == "cmyk" else "grey16" if gray else "rgb16"
    return (image * 65535).rint().cast("ushort").copy(interpretation=kind)


def _without_extras(image, bands, alpha):
    if image.bands == bands:
        return image
    color = image.extract_band(0, n=bands)
    if alpha is None:
        return color
    # White paper is full light, and no ink.
    white = 0 if image.interpretation == "cmyk" else _MAX[image.format]
    image = color.bandjoin(image.extract_band(bands + alpha))
    return image.flatten(background=[white] * bands, max_alpha=_MAX[image.format])


def _to_srgb(image):
    profile = None
    if image.get_typeof("icc-profile-data"):
        profile = bytes(image.get("icc-profile-data"))
    cmyk = image.interpretation == "cmyk"
    if not cmyk and profile in (None, srgb_profile()):
        return image  # as it is: a 16-bit file that we wrote comes back exactly
    rendering = {"intent": "relative", "black_point_compensation": True}
    fallback = "cmyk" if cmyk else "sgrey" if image.bands == 1 else "srgb"
    source = {"embedded": True, "input_profile": fallback, **rendering}
    try:
        if image.format == "uchar":
            return image.icc_transform("srgb", depth=8, **source)
        # From 16 bits straight to 16, LittleCMS interpolates in a coarse table: saturated
        # wide-gamut colors come out up to 14 8-bit codes off. By way of float Lab it computes each
        # pixel.
        lab = image.icc_import(pcs="lab", **source)
        return lab.icc_export(output_profile="srgb", pcs="lab", depth=16, **rendering)
    except pyvips.Error:
        if profile is None:
            raise
        image = image.copy()
        image.remove("icc-profile-data")  # It is damaged, where libvips notices only now.
        return _to_srgb(image)


def srgb_profile():
    """libvips' sRGB profile, of 480 bytes: bytes."""
    return bytes(pyvips.Image.profile_load("srgb"))


def from_array(array):
    """The libvips image of an array (H, W) or (H, W, bands) of uint8 or uint16."""
    array = np.ascontiguousarray(array)
    height, width = array.shape[:2]
    bands = array.shape[2] if array.ndim == 3 else 1
    form = "ushort" if array.dtype == np.uint16 else "uchar"
    image = pyvips.Image.new_from_memory(array.data, width, height, bands, form)
    gray, color = ("grey16", "rgb16") if form == "ushort" else ("b-w", "srgb")
    return image.copy(interpretation=gray if bands < 3 else color)


def to_integers(array):
    """An array of bool, or of floats in 0..1, as uint8; uint8 and uint16 as they are."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype in (np.uint8, np.uint16):
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.floating):
        raise ColorlibError(
            f"array of {array.dtype}: not pixel values; convert it to uint8, uint16 or float 0..1"
        )
    _check_range(array, f"array of {array.dtype}")
    return np.rint(np.clip(array, 0, 1).astype(np.float32) * 255).astype(np.uint8)


def _check_range(floats, name):
    low, high = floats.min(), floats.max()
    # Filters overshoot by rounding errors; more than that means another scale.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ColorlibError(f"{name} from {low:g} to {high:g}: must be in 0..1; scale them")


def from_pillow(picture, name=None):
    """Decodes a PIL image as `decode` does; errors call it by `name`, or its file's."""
    name = name or getattr(picture, "filename", "") or "PIL image"
    try:
        profile = picture.info.get("icc_profile")
        picture = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise ColorlibError(f"{name}: broken or cut short ({error}); get a fresh copy") from error
    image = from_array(_pil_array(picture, name))
    if picture.mode == "CMYK":
        image = image.copy(interpretation="cmyk")
    if profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    with told_by_name(name):  # a profile of another kind of picture
        return decode(image, name)


def _pil_array(picture, name):
    mode = picture.mode
    if mode == "F":
        return to_integers(np.asarray(picture))
    if mode.startswith("I"):  # I;16 and its byte orders, or 32 bits that hold 16
        array = np.asarray(picture)
        if array.min() < 0 or array.max() > 65535:
            raise ColorlibError(f"{name}: values beyond 16 bits; convert it to 8 or 16 bits")
        return array.astype(np.uint16)
    if mode == "LAB":
        raise ColorlibError(f"{name}: a Lab picture; convert it to RGB first")
    if picture.has_transparency_data:
        return np.asarray(picture.convert("LA" if mode in ("L", "LA", "La") else "RGBA"))
    if mode not in ("L", "RGB", "CMYK"):
        picture = picture.convert("L" if mode == "1" else "RGB")
    return np.asarray(picture)


def reason(error):
    """libvips' first line about it, in brackets (it adds one for each layer it passed)."""
    lines = [line.strip() for line in error.detail.splitlines() if line.strip()]
    return f" ({lines[0][:120]})" if lines else ""
