"""Photo files to arrays and back, with libvips: depth, profiles and orientation are kept right.

Arrays are upright sRGB (H, W, 3), uint8, or uint16 where the file has 16 bits a channel.
"""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from colorlib import ASSETS, ColorlibError

# libvips warns on the terminal about harmless oddities; what matters arrives as an exception.
os.environ.setdefault("VIPS_WARNING", "0")
logging.getLogger("pyvips").setLevel(logging.ERROR)

import pyvips  # noqa: E402

READABLE = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".avif", ".gif")
WRITABLE = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 250_000_000

_SIXTEEN_BIT = ("ushort", "short", "uint", "int")
_RGB_OR_GREY = ("srgb", "b-w", "rgb", "rgb16", "grey16", "multiband", "matrix")


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__
    return detail.removeprefix("VipsForeignLoad: ")


def read(path, *, max_pixels=MAX_PIXELS):
    """Reads a photo: upright, in sRGB, without alpha (put on white).

    Args:
        path: path of a JPEG, PNG, TIFF, WebP, AVIF or GIF (its first frame).
        max_pixels: int. Larger photos are refused before they are decoded.

    Returns:
        array (H, W, 3): uint8, or uint16 for a file with 16 bits a channel.

    Raises:
        ColorlibError: no such file, not a photo, damaged, or too large.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ColorlibError(f"{path}: {what}; give the path of a photo")
    try:
        image = pyvips.Image.new_from_file(str(path), fail_on="error")
    except pyvips.Error as error:
        raise ColorlibError(
            f"{path}: not a photo that can be read ({_first_line(error)}); convert it to JPEG"
        ) from None
    if image.width * image.height > max_pixels:
        raise ColorlibError(
            f"{path}: {image.width} x {image.height} is more than {max_pixels:,} pixels; "
            "reduce it first"
        )
    try:
        rgb = _to_srgb(image.autorot()).numpy()
    except pyvips.Error as error:
        raise ColorlibError(
            f"{path}: damaged or unsupported ({_first_line(error)}); restore or convert it"
        ) from None
    return np.ascontiguousarray(rgb)


def _to_srgb(image):
    if image.format in ("float", "double", "complex", "dpcomplex"):
        raise pyvips.Error(f"values of type {image.format}")
    deep = image.format in _SIXTEEN_BIT
    if image.interpretation == "multiband" and image.bands not in (1, 2, 3, 4):
        raise pyvips.Error(f"{image.bands} channels")
    if image.hasalpha():
        top = 65535 if deep else 255
        image = image.flatten(background=[top] * (image.bands - 1), max_alpha=top).cast(
            image.format
        )
    depth = 16 if deep else 8
    if image.get_typeof("icc-profile-data"):
        try:
            image = image.icc_transform(
                "srgb", embedded=True, intent="relative", black_point_compensation=True, depth=depth
            )
        except pyvips.Error:
            # A profile that does not fit its pixels: most viewers ignore it as well.
            image = image.copy()
            image.remove("icc-profile-data")
    if image.interpretation == "cmyk":
        image = image.icc_transform("srgb", input_profile="cmyk", intent="relative", depth=depth)
    if image.bands == 1 and image.interpretation not in ("b-w", "grey16"):
        image = image.copy(interpretation="grey16" if deep else "b-w")
    image = image.colourspace("rgb16" if deep else "srgb")
    return image.cast("ushort" if deep else "uchar")[0:3]


def write(path, rgb, *, quality=92):
    """Writes a photo; the format follows the suffix. The old file stays until the new is whole.

    Args:
        path: path ending in .jpg, .jpeg, .png, .tif, .tiff or .webp.
        rgb: array (H, W, 3), sRGB: uint8, or uint16, which PNG and TIFF keep and the others round
            to 8 bits.
        quality: int in 1..100, of JPEG and WebP. Defaults to 92.

    Raises:
        ColorlibError: unknown suffix, or the file can't be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ColorlibError(f"{path}: can't write {suffix or 'this'}; use {', '.join(WRITABLE)}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"rgb must be (H, W, 3) uint8 or uint16. Received: {rgb.shape} {rgb.dtype}"
        )
    if rgb.dtype == np.uint16 and suffix not in (".png", ".tif", ".tiff"):
        rgb = to_uint8(rgb)
    image = pyvips.Image.new_from_array(np.ascontiguousarray(rgb)).copy(
        interpretation="srgb" if rgb.dtype == np.uint8 else "rgb16"
    )
    options = {"Q": quality} if suffix in (".jpg", ".jpeg", ".webp") else {}
    if suffix in (".jpg", ".jpeg") and quality >= 90:
        options["subsample_mode"] = "off"  # Chroma is what this library is about.
    if suffix in (".tif", ".tiff"):
        options["compression"] = "deflate"
    handle, temporary = None, None
    try:
        handle, temporary = tempfile.mkstemp(suffix=suffix, prefix=".writing-", dir=path.parent)
        os.close(handle)
        image.write_to_file(temporary, **options)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (pyvips.Error, OSError) as error:
        raise ColorlibError(f"{path}: can't be written ({_first_line(error)})") from None
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_uint8(rgb):
    """16 bits a channel to 8, rounded: 257 steps of the one are one step of the other."""
    return rgb if rgb.dtype == np.uint8 else ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)


def as_rgb(image):
    """Any kind of image as an array.

    Args:
        image: path, PIL image, or array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8,
            uint16, bool, or float in 0..1.

    Returns:
        array (H, W, 3): uint16 for uint16 or a 16-bit file, else uint8.

    Raises:
        ColorlibError: a file that can't be read, or an array that is no image.
    """
    if isinstance(image, str | Path):
        return read(image)
    if not isinstance(image, np.ndarray) and hasattr(image, "convert"):  # PIL
        deep = image.mode.startswith("I;16")
        image = np.asarray(image if deep else image.convert("RGB"))
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ColorlibError(
            f"An image array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). "
            f"Received: shape={np.shape(image)}"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ColorlibError(
                "A float image must be in 0..1. Received: values from "
                f"{array.min():g} to {array.max():g}; divide by the largest possible value"
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype not in (np.uint8, np.uint16):
        raise ColorlibError(
            f"An image array must be uint8, uint16, bool or float. Received: dtype={array.dtype}"
        )
    if array.shape[2] == 4:  # On white, as files are.
        top = np.iinfo(array.dtype).max
        alpha = array[..., 3:].astype(np.float64) / top
        color = array[..., :3] * alpha + top * (1 - alpha)
        return np.rint(color).astype(array.dtype)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def find(source):
    """The photos of a folder (recursively, sorted, hidden files left out) or of a list.

    Args:
        source: path of a folder, or a list of paths, which is taken as it is.

    Returns:
        list of Path.

    Raises:
        ColorlibError: no such folder, or no photo in it.
    """
    if not isinstance(source, str | Path):
        return [Path(path) for path in source]
    folder = Path(source)
    if not folder.is_dir():
        raise ColorlibError(f"{folder}: no such folder; give a folder of photos")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in READABLE
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise ColorlibError(f"{folder}: no photos in it ({', '.join(READABLE)})")
    return found


def packaged(which="sample"):
    """The photos that come with this library.

    Args:
        which: str. `"sample"` (54 color photos) or `"historical"` (ten photographs made grey).

    Returns:
        DataFrame with `file`, `path`, `kind`, `author`, `licence` and, for `"historical"`,
        `truth`: the path of the color original, or None.
    """
    if which not in ("sample", "historical"):
        raise ColorlibError(f"which must be 'sample' or 'historical'. Received: {which!r}")
    folder = ASSETS / which
    table = pd.read_csv(folder / "provenance.csv")[["file", "kind", "author", "licence"]]
    table.insert(1, "path", [folder / name for name in table["file"]])
    if which == "historical":
        numbers = table["file"].str.extract(r"_(\d+)_grey")[0]
        originals = [next((ASSETS / "sample").glob(f"*_endless_loc{n}.jpg"), None) for n in numbers]
        table["truth"] = pd.Series(originals, dtype=object)
    return table.sort_values("file", ignore_index=True)
