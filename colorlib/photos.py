"""Photos: files of many kinds to upright sRGB arrays and back, with pyvips (libvips).

Pillow opens a 16-bit RGB TIFF as 8 bit without a word; libvips keeps depth and color profile,
and its header can be read, and refused, before a pixel is decoded.
"""

import io
import os
import re
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyvips
from PIL import BmpImagePlugin, Image, Jpeg2KImagePlugin

from colorlib import ASSETS, ColorlibError, formats, pixels
from colorlib.files import first_line, write_atomically
from colorlib.metadata import Metadata, attach, finish, of_pillow, of_png, of_tiff, of_vips

# libvips' messages quote names and files, whose bytes need not be UTF-8. There pyvips prints a
# traceback for a warning: these end in libvips (see `colorlib`), as they help nobody. And it fails
# to read an error, which then fails every later call, for whatever photo.
pyvips._remove_log_handler()
pyvips.error._to_string = lambda text: pyvips.ffi.string(text).decode("utf-8", "backslashreplace")
# Its cache of operations would keep whole photos in memory and their files open.
pyvips.cache_set_max(0)

_JPEG_SUFFIXES, _TIFF_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif"), (".tif", ".tiff")
# With those that can't be read: who has such a photo is told so.
READ_SUFFIXES = (
    *(*_JPEG_SUFFIXES, ".png", *_TIFF_SUFFIXES, ".webp", ".avif", ".gif", ".bmp"),
    *(".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".heic", ".heif", ".hif", ".jxl"),
    *(".psd", ".psb", ".pbm", ".pgm", ".ppm", ".pnm", *formats.RAW_SUFFIXES),
)
# libvips may know more (conda's reads PDF and SVG): these decoders only.
_LOADERS = {
    "JPEG": "jpegload", "PNG": "pngload", "TIFF": "tiffload",
    "WebP": "webpload", "AVIF": "heifload", "GIF": "gifload",
}  # fmt: skip
_UNREADABLE = {
    "raw": "a camera's raw file, which can't be read; develop it to TIFF or JPEG first",
    "JPEG XL": "a JPEG XL picture, which can't be read; convert it to PNG or TIFF first",
    "Photoshop": "a Photoshop document, which can't be read; save it as TIFF first",
    "PDF": "a PDF document, not a photo; save its pictures as JPEG or TIFF first",
    "PNM": "a PNM picture (PBM, PGM, PPM), which can't be read; convert it to PNG or TIFF first",
}
_WRITERS = {
    **dict.fromkeys(_JPEG_SUFFIXES, ("jpegsave", {})),
    ".png": ("pngsave", {}),
    **dict.fromkeys(
        _TIFF_SUFFIXES, ("tiffsave", {"compression": "deflate", "predictor": "horizontal"})
    ),
    ".webp": ("webpsave", {"smart_subsample": True}),
    ".avif": ("heifsave", {"compression": "av1", "effort": 2}),
}
WRITE_SUFFIXES = tuple(_WRITERS)
_SUFFIX = re.compile(r"\.[A-Za-z]\w*")  # "Easter 1.4.1934" and "Mr. Fox" end in none.
_SIXTEEN_BIT = (".png", *_TIFF_SUFFIXES)  # also the lossless ones: no quality
_TURNS = 64  # threads that read at a time
_turns, _alone = threading.Semaphore(_TURNS), threading.Lock()
_LARGEST_PROFILE = 1 << 22  # bytes of the start of a JPEG 2000 file


class TooLarge(ColorlibError):
    """A photo of more than `max_pixels`; `pixels` is its number of them."""


class Photo(NamedTuple):
    """What `load` returns."""

    # (H, W, 3), upright sRGB: uint8, or uint16 where the file has more than 8 bits. Of HEIC, and of
    # JPEG 2000 in color, 8 are read, and a note says so.
    rgb: np.ndarray
    metadata: Metadata | None  # what `write` puts into another file
    notes: tuple[str, ...]  # what was put right or left out, a line each
    pages: int  # full-size pages of a TIFF; 1 for other formats


def load(source, *, max_pixels=250_000_000, page=None):
    """Reads a photo as an upright sRGB array, with what the file says beside the pixels.

    JPEG, PNG, TIFF, WebP, AVIF, GIF, BMP and JPEG 2000, by content whatever the suffix, and HEIC
    where the extra `heic` is installed. Of several frames the first is read. Gray becomes three
    equal channels, alpha is laid on white, CMYK is converted by its profile (or libvips' own), an
    embedded ICC profile is applied (relative colorimetric, black point compensation; one that does
    not fit the image is ignored), and EXIF orientation turns the picture. Channels that a TIFF
    does not declare as alpha, such as a scanner's infrared, are left out, and so are its reduced
    pictures. A JPEG that lacks nothing but its end marker is read.

    Args:
        source: str or Path, or the bytes of a file.
        max_pixels: int. The largest width times height that is decoded; checked in the header.
            Defaults to 250 million.
        page: int. Which of a TIFF's full-size pages, from 0. Defaults to the first, with a note if
            there are more.

    Returns:
        A `Photo`.

    Raises:
        ColorlibError: no such file or page, not a photo, a format or pixels that can't be read,
            broken or cut short, or (`TooLarge`) over `max_pixels`.
    """
    data, name = (source, "these bytes") if isinstance(source, bytes) else (None, source)
    if data is None:
        _check_readable(source)
    with open(source, "rb") if data is None else io.BytesIO(data) as file:
        kind = formats.kind(file.read(formats.HEAD))
        if kind is None:
            raise _no_photo(name)
        if kind in _UNREADABLE:
            raise ColorlibError(f"{name}: {_UNREADABLE[kind]}")
        if kind != "TIFF":
            _check_pages(name, 1, page)
        file.seek(0)
        if kind in ("BMP", "JPEG 2000", "HEIC"):
            return _load_with_pillow(file, kind, name, max_pixels)
        arguments = (file, source, kind, name, max_pixels, page)
        try:
            with _turns:
                return _load_with_vips(*arguments)
        except pyvips.Error:
            return _load_alone(*arguments)


def read(path, *, max_pixels=250_000_000):
    """Reads a photo as an upright sRGB array.

    Args:
        path: str or Path. A file as for `load`, whose notes become warnings.
        max_pixels: int. The largest width times height that is decoded; checked in the header.
            Defaults to 250 million.

    Returns:
        Array (H, W, 3) as `Photo.rgb`.

    Raises:
        ColorlibError: see `load`.
    """
    photo = load(path, max_pixels=max_pixels)
    for note in photo.notes:
        warnings.warn(f"{path}: {note}", UserWarning, stacklevel=2)
    return photo.rgb


def count_pages(path, opener=None):
    """How many full-size pages a file has.

    Args:
        path: path, or an address that `opener` knows.
        opener: callable that is given it and returns a binary file, or None for a file here.

    Returns:
        int; 1 for all but TIFFs (by suffix), and for what can't be opened.
    """
    if Path(path).suffix.lower() not in _TIFF_SUFFIXES:
        return 1
    if opener is None and not os.path.isfile(path):  # a pipe would make us wait for ever
        return 1
    try:
        with opener(path) if opener else open(path, "rb") as file:
            found = formats.tiff_page(file, 0)
    except Exception:  # Each store has errors of its own; `load` says what is wrong.
        return 1
    return found.pages if found else 1


def write(path, rgb, *, quality=92, metadata=None, made_by=None):
    """Writes an sRGB array to a file, whole or not at all.

    The file is written under another name beside its place and then moved there. It carries an
    sRGB profile (480 bytes). With metadata it keeps EXIF (without a thumbnail, and upright), XMP
    and the resolution, in JPEG and TIFF IPTC, and in PNG the texts of a PNG; a JPEG holds at most
    64 KB of each. Without, the resolution is unknown.

    Args:
        path: str or Path. The suffix (`WRITE_SUFFIXES`) chooses JPEG, PNG, TIFF, WebP or AVIF.
        rgb: array (H, W, 3), uint8 or uint16 (or any array that `as_rgb` takes). PNG and TIFF
            keep 16 bits; for the other formats v becomes round(v / 257).
        quality: int, 1 to 100, for JPEG, WebP and AVIF. Defaults to 92.
        metadata: what `load` found in the original, or None.
        made_by: str. What made the colors, such as a program, its version and settings. The file's
            XMP then says so (`xmp:CreatorTool`), and that a trained model had a part in the
            picture (IPTC's digital source type). Defaults to None: it says nothing.

    Raises:
        ColorlibError: another suffix, a folder that is missing or not writable, a full disk, a
            picture too large for the format.
    """
    path, rgb = Path(path), as_rgb(rgb)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise ColorlibError(
            f"{path}: cannot write {suffix or 'a file without a suffix'}; "
            f"use one of {' '.join(WRITE_SUFFIXES)}"
        )
    if not 1 <= quality <= 100:
        raise ColorlibError(f"quality={quality}: must be from 1 to 100")
    if not path.parent.is_dir():
        raise ColorlibError(f"{path}: the folder {path.parent} does not exist; create it first")
    if rgb.dtype == np.uint16 and suffix not in _SIXTEEN_BIT:
        rgb = to_uint8(rgb)
    saver, options = _WRITERS[suffix]
    if suffix not in _SIXTEEN_BIT:
        options = options | {"Q": quality}
    image, kept = attach(pixels.from_array(rgb), metadata, made_by, suffix)
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", pixels.srgb_profile())

    def content(part):
        # Not write_to_file, which wants a folder's name in UTF-8.
        getattr(image, saver)(os.fsencode(part), **options, **kept)
        finish(part, metadata, made_by)

    try:
        write_atomically(path, content)
    except pyvips.Error as error:
        system = re.search("system error: (.+)", error.detail)
        why = f" ({system[1]})" if system else pixels.reason(error)
        raise ColorlibError(
            f"{path}: could not be written{why}; check the disk's space, the "
            "folder's permissions and the format's limits"
        ) from error
    except OSError as error:
        raise ColorlibError(
            f"{path}: could not be written ({error.strerror}); choose another name or folder"
        ) from error


def same_format(suffix, other):
    """Whether two of WRITE_SUFFIXES are of one format, as .jpg and .jpeg."""
    return _WRITERS[suffix] == _WRITERS[other]


def to_uint8(rgb):
    """Rounds a uint16 array to 8 bits, v / 257; a uint8 array comes back as it is."""
    if rgb.dtype == np.uint8:
        return rgb
    return ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)


def as_rgb(image):
    """Makes an sRGB array of a path, a PIL image or an array.

    Args:
        image: str or Path (see `read`); PIL image (orientation, profile and alpha as in `read`);
            or sRGB array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or
            float in 0..1. A fourth channel is alpha, laid on white.

    Returns:
        Array (H, W, 3), uint8, or uint16 where the image has 16 bits. A uint8 or uint16 array
        (H, W, 3) comes back as it is, not copied.

    Raises:
        ColorlibError: see `read`; another shape or type of array, or values out of range.
    """
    if isinstance(image, str | os.PathLike):
        return read(image)
    if type(image).__module__.startswith("PIL."):
        return pixels.from_pillow(image)
    if not isinstance(image, np.ndarray):
        raise ColorlibError(
            f"{type(image).__name__}: not an image; give a path, a PIL image or a NumPy array"
        )
    shape = image.shape
    if not (image.ndim in (2, 3) and image.size and shape[2:] in ((), (1,), (3,), (4,))):
        raise ColorlibError(
            f"array of shape {shape}: not an image; give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    array = pixels.to_integers(image)
    if shape[2:] == (3,):
        return array
    return pixels.decode(pixels.from_array(array), f"array of shape {shape}")


def resize(image, height, width, method="bicubic"):
    """Resizes an array, antialiased where it becomes smaller.

    Args:
        image: array (H, W) of float32, or (H, W, 3) of uint8.
        height, width: int. The new size, px; at the old one the array comes back as it is.
        method: str. `"bicubic"`, or `"lanczos"`, which is sharper. Defaults to `"bicubic"`.

    Returns:
        Array (height, width) or (height, width, 3) of that type. Floats may overshoot the range
        of the input.
    """
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling[method.upper()]))


def find(source):
    """Finds photos, by suffix (`READ_SUFFIXES`, upper or lower case), or without one by content.

    Not all of them can be read: `READ_SUFFIXES` has formats of which `load` only tells the name. A
    folder that may not be looked into stands in the list itself, so that `load` tells that.

    Args:
        source: a folder, searched with its subfolders (links to folders are not followed); a
            file; or a list or tuple of these.

    Returns:
        List of Path: a folder's photos sorted, a list's in its order, each once. Below a folder,
        whatever begins with a dot is left out.

    Raises:
        ColorlibError: something does not exist or may not be looked into, or there is no photo.
    """
    sources = source if isinstance(source, list | tuple) else [source]
    photos = list(dict.fromkeys(photo for item in sources for photo in _photos_of(Path(item))))
    if not photos:
        names = ", ".join(str(item) for item in sources[:3]) + (" ..." if len(sources) > 3 else "")
        raise ColorlibError(
            f"{names or 'an empty list'}: no photos found; give JPEG, PNG, TIFF, WebP, AVIF, GIF, "
            "BMP, JPEG 2000 or HEIC files, or a folder of these"
        )
    return photos


def packaged(which="sample"):
    """Lists the photos that come with the package.

    Args:
        which: "sample" (54 in color) or "historical": ten of about the 1940s, made gray (their
            `kind`), and four that have always been "black and white".

    Returns:
        DataFrame with a row per photo: file, title, path (Path), kind, author,
        license, truth (Path of the color original, or None; always None for "sample").

    Raises:
        ColorlibError: another name.
    """
    import pandas as pd  # takes a third of a second, and reading photos does without

    if which not in ("sample", "historical"):
        raise ColorlibError(f"{which}: not a set of photos; use sample or historical")
    table = pd.read_csv(ASSETS / which / "provenance.csv", keep_default_na=False)
    table["path"] = [ASSETS / which / name for name in table["file"]]
    # loc_kodachrome_5_grey.jpg was made of the sample's people_endless_loc5.jpg.
    numbers = table["file"].str.extract(r"_(\d+)_grey", expand=False)
    originals = [next((ASSETS / "sample").glob(f"*_endless_loc{n}.jpg"), None) for n in numbers]
    table["truth"] = pd.Series(originals, dtype=object)
    return table[["file", "title", "path", "kind", "author", "license", "truth"]]


def _check_readable(path):
    try:
        os.stat(path)
    except FileNotFoundError:
        what = "a link that leads to no file" if os.path.islink(path) else "no such file"
        raise ColorlibError(f"{path}: {what}; check the name and the folder") from None
    except OSError as error:  # a folder that may not be entered, a link to itself, a name too long
        raise ColorlibError(f"{path}: {error.strerror}; check the name and the folder") from None
    if not os.access(path, os.R_OK):
        raise ColorlibError(f"{path}: may not be read; check its permissions")
    if not os.path.isfile(path):  # a pipe would make us wait for ever
        kind = "a folder" if os.path.isdir(path) else "a device or pipe"
        raise ColorlibError(f"{path}: {kind}, not a photo; give a file")


def _open(source, kind, name, **options):
    """Reads the header. A source, unlike a file name, is not cached and has no options in it."""
    # Else a photo with a bad profile, read in spite of it, lends its reason to the next error.
    pyvips.vips_lib.vips_error_clear()
    if isinstance(source, bytes):
        stream = pyvips.Source.new_from_memory(source)
    else:
        stream = pyvips.Source.new_from_file(os.fsencode(source))
    options = {"access": "sequential", "fail_on": "error"} | options
    image = pyvips.Image.new_from_source(stream, "", **options)
    if not image.get("vips-loader").startswith(_LOADERS[kind]):
        raise _no_photo(name)
    return image


def _no_photo(name):
    return ColorlibError(
        f"{name}: not a photo that can be read; give JPEG, PNG, TIFF, WebP, AVIF, GIF, BMP, JPEG "
        "2000 or HEIC (convert others first)"
    )


def _check_size(width, height, name, max_pixels):
    if width * height > max_pixels:
        error = TooLarge(
            f"{name}: {width} x {height} pixels are over the limit of {max_pixels:,}; make the "
            "photo smaller, or raise max_pixels"
        )
        error.pixels = width * height
        raise error


def _check_pages(name, pages, page):
    if page is not None and not 0 <= page < pages:
        raise ColorlibError(f"{name}: no page {page}; give 0 to {pages - 1}")


def _frames(image):
    count = image.get("n-pages") if image.get_typeof("n-pages") else 1
    return [f"frame 1 of {count}; the others are left out"] if count > 1 else []


def _load_alone(file, source, kind, name, *arguments):
    """Reads a broken photo again for the reason, while no other thread reads.

    libvips has one text for the errors of all threads, and pyvips clears it time and again.
    """
    with _alone, pixels.told_by_name(name), ExitStack() as stack:
        for _ in range(_TURNS):
            stack.enter_context(_turns)
        for attempt in range(3):
            try:
                return _load_with_vips(file, source, kind, name, *arguments)
            except pyvips.Error as error:
                if "known format" in error.detail:
                    raise _no_photo(name) from error
                if error.detail or attempt == 2:
                    raise


def _load_with_vips(file, source, kind, name, max_pixels, page):
    file.seek(0)
    if kind == "TIFF":
        return _load_tiff(file, source, name, max_pixels, page)
    image = _open(source, kind, name)
    _check_size(image.width, image.height, name, max_pixels)
    notes, found = _frames(image), of_png(image, file) if kind == "PNG" else of_vips(image)
    try:
        rgb = pixels.decode(image, name)
    except pyvips.Error as error:
        if kind != "JPEG":
            raise
        rgb = _decode_without_end(file.read(), name, error)
        notes.append("the end marker is missing; all pixels are there")
    return Photo(rgb, found, tuple(notes), 1)


def _load_tiff(file, source, name, max_pixels, page):
    found = formats.tiff_page(file, page or 0)
    _check_pages(name, found.pages if found else 1, page)
    if found is None:
        image = _open(source, "TIFF", name)
        _check_size(image.width, image.height, name, max_pixels)
        return Photo(pixels.decode(image, name), of_vips(image), (), 1)
    if found.problem:
        raise ColorlibError(
            f"{name}: {found.problem} can't be used; save it as 8- or 16-bit RGB or gray"
        )
    image, notes = _open(source, "TIFF", name, page=found.index), []
    _check_size(image.width, image.height, name, max_pixels)
    if page is None and found.pages > 1:
        notes.append(f"page 1 of {found.pages}; the others are left out")
    extras = image.bands - pixels.COLOR_BANDS.get(image.interpretation, image.bands)
    if extras > (found.alpha is not None):
        notes.append("an undeclared channel (a scanner's infrared?) is left out")
    kept = of_tiff(image, file, found.offset)
    return Photo(pixels.decode(image, name, found.alpha), kept, tuple(notes), found.pages)


def _decode_without_end(data, name, error):
    """Decodes a JPEG whose end marker is missing; raises `error` if pixels are missing as well."""
    data = data.rstrip(b"\xff")  # half of the marker
    if not formats.jpeg_has_all_scans(data):
        raise error

    def ended(more, fail_on):
        image = _open(data + more + b"\xff\xd9", "JPEG", name, fail_on=fail_on)
        return pixels.decode(image, name)

    rgb = ended(b"", "warning")
    # libvips misses the warning about the last rows. Where these are whole, what follows them is
    # not read: neither other bits, of which the first differs from the zeros that stand in for
    # missing ones, nor the next interval between restart markers.
    restarts = re.findall(rb"\xff([\xd0-\xd7])", data[data.rfind(b"\xff\xda") :])
    following = (restarts[-1][0] - 0xCF) % 8 if restarts else 0
    for more in (b"", bytes((0xFF, 0xD0 + following))):
        if not np.array_equal(rgb, ended(more + b"\xaa" * 64, "error")):
            raise error
    return rgb


def _load_with_pillow(file, kind, name, max_pixels):
    # The classes themselves: Image.open would try every format, and warn of large photos.
    opener = {"BMP": BmpImagePlugin.BmpImageFile, "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile}
    if kind == "HEIC":
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise ColorlibError(
                f"{name}: a HEIC photo; pip install -e '.[heic]' adds what reads it"
            ) from None
        opener[kind] = HeifImageFile
    try:
        picture = opener[kind](file)
        _check_size(*picture.size, name, max_pixels)
        picture.load()
        depth = picture.info.get("bit_depth", 8)  # as HEIC tells it
        if kind == "JPEG 2000":  # Pillow passes its profile over.
            file.seek(0)
            head = file.read(_LARGEST_PROFILE)
            picture.info["icc_profile"] = formats.jp2_profile(head)
            depth = formats.jp2_depth(head)
    except ColorlibError:
        raise
    except Exception as error:  # Each decoder has its own.
        raise ColorlibError(
            f"{name}: a {kind} picture, broken or cut short ({first_line(error)[:120]}); get a "
            "fresh copy of the file, or save it again with another program"
        ) from error
    frames = getattr(picture, "n_frames", 1)
    notes = [f"picture 1 of {frames}; the others are left out"] if frames > 1 else []
    rgb = pixels.from_pillow(picture, name)
    if depth > 8 and rgb.dtype == np.uint8:
        notes.append(f"{depth} bits a channel, of which 8 are read; a TIFF or PNG keeps 16")
    return Photo(rgb, of_pillow(picture), tuple(notes), 1)


def _photos_of(path):
    if path.is_dir():
        found = sorted(_walk(path))
        if found == [path]:
            raise ColorlibError(f"{path}: may not be read; check the folder's permissions")
        return found
    if not path.exists():
        raise ColorlibError(f"{path}: no such file or folder; check the name")
    return [path] if _may_be_photo(path) else []


def _walk(folder):
    closed = []
    for parent, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and _may_be_photo(Path(parent, name)):
                yield Path(parent, name)
    yield from (Path(error.filename) for error in closed)


def _may_be_photo(path):
    if _SUFFIX.fullmatch(path.suffix):
        return path.suffix.lower() in READ_SUFFIXES
    try:
        if not path.is_file():  # a pipe would make us wait for ever
            return False
        with open(path, "rb") as file:
            return formats.kind(file.read(formats.HEAD)) not in (None, "PDF")
    except OSError:
        return False
