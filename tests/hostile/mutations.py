"""Broken photos by the thousand: the same ones for the same seed.

They are made of the files in this folder, of tests/cases, and of packaged photos in every format
that is read: cut short, with bits flipped, bytes gone, doubled or from another file, numbers that
are far too large, and names that say another format. `giants` are small files that claim, or hold,
more pixels than fit in memory.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from colorlib import photos

FOLDER = Path(__file__).parent
SUFFIXES = ("jpg", "png", "tif", "webp", "avif", "gif", "bmp", "jp2", "heic", "")


def seeds():
    """Files to be broken: {name: bytes}."""
    paths = [*FOLDER.iterdir(), *(FOLDER.parent / "cases").iterdir()]
    found = {path.name: path.read_bytes() for path in sorted(paths) if _is_photo(path)}
    for path in photos.packaged("sample")["path"][::18]:
        with Image.open(path) as image:
            image.thumbnail((160, 160))
            found |= {f"{path.stem}_{name}": data for name, data in _saved(image).items()}
    return found


def _is_photo(path):
    return path.is_file() and path.suffix not in (".csv", ".py", ".pyc")


def _saved(image):
    """A photo in all formats, with EXIF and a profile where they are to be broken."""
    exif = Image.Exif()
    exif[274], exif[315], exif[306] = 6, "Somebody", "1938:07:01 12:00:00"
    described = {"exif": exif, "icc_profile": photos.pixels.srgb_profile(), "dpi": (300, 300)}
    kinds = {
        "baseline.jpg": described,
        "progressive.jpg": {"progressive": True},
        "restarts.jpg": {"restart_marker_blocks": 2},
        "rgb.png": described,
        "deflate.tif": {"compression": "tiff_adobe_deflate", **described},
        "lzw.tif": {"compression": "tiff_lzw"},
        "jpeg.tif": {"compression": "jpeg"},
        "lossy.webp": {k: v for k, v in described.items() if k != "dpi"},
        "lossless.webp": {"lossless": True},
        "photo.avif": {},
        "photo.gif": {},
        "photo.bmp": {},
        "photo.jp2": {},
    }
    files = {}
    for name, options in kinds.items():
        buffer = io.BytesIO()
        form = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(name[-3:])
        image.save(buffer, form or name.split(".")[1].upper(), **options)
        files[name] = buffer.getvalue()
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, np.asarray(image).astype(np.uint16) * 257, photometric="rgb", tile=(32, 32)
    )
    files["tiles16.tif"] = buffer.getvalue()
    return files


def mutations(count, seed=0):
    """Broken files.

    Args:
        count: int. How many.
        seed: int. Another one gives others. Defaults to 0.

    Yields:
        (name, bytes): a name, different from all others whatever its suffix, that tells what was
        done to which file; and the content.
    """
    random, sources = np.random.default_rng(seed), list(seeds().items())
    order = random.permutation(len(sources))
    for number in range(count):
        name, data = sources[order[number % len(order)]]
        # Each round of the files has the next change, so that every file gets every one.
        change = CHANGES[(number + number // len(order)) % len(CHANGES)]
        other = sources[random.integers(len(sources))][1]
        suffix = Path(name).suffix.lower().lstrip(".")
        if number % 10 == 0:
            suffix = SUFFIXES[random.integers(len(SUFFIXES))]
        stem = f"{number:04}_{change.__name__.strip('_')}_{Path(name).stem[:60].replace('.', '_')}"
        yield f"{stem}.{suffix}".rstrip("."), bytes(change(bytearray(data), random, other))


def _cut(data, random, other):
    return data[: random.integers(len(data) + 1)]


def _cut_near_the_end(data, random, other):
    return data[: max(0, len(data) - int(random.integers(1, 40)))]


def _flip_one_bit(data, random, other):
    if data:
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
    return data


def _flip_bits(data, random, other):
    for position in random.integers(0, max(1, len(data)), 1 + len(data) // 500):
        if position < len(data):
            data[position] ^= 1 << int(random.integers(8))
    return data


def _break_the_header(data, random, other):
    for position in random.integers(0, 256, 4):
        if position < len(data):
            data[position] = random.integers(256)
    return data


def _enlarge_a_number(data, random, other):
    """0xFFFF or 0x7FFFFFFF somewhere in the header, where sizes, counts and offsets stand."""
    value = (b"\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")[random.integers(3)]
    start = int(random.integers(max(1, min(len(data), 400))))
    data[start : start + len(value)] = value
    return data


def _zeros(data, random, other):
    start, length = (int(n) for n in random.integers(0, max(1, len(data)), 2))
    data[start : start + length] = bytes(len(data[start : start + length]))
    return data


def _gone(data, random, other):
    start = int(random.integers(max(1, len(data))))
    del data[start : start + int(random.integers(1, 64))]
    return data


def _doubled(data, random, other):
    start = int(random.integers(max(1, len(data))))
    return data[:start] + data[max(0, start - 200) :]


def _joined(data, random, other):
    """The first part of one file, the last of another."""
    return data[: random.integers(len(data) + 1)] + other[random.integers(len(other) + 1) :]


CHANGES = (
    *(_cut, _cut_near_the_end, _flip_one_bit, _flip_bits, _break_the_header),
    *(_enlarge_a_number, _zeros, _gone, _doubled, _joined),
)


def png(width, height, depth=8, color=2, data=b"", **chunks):
    """A PNG from the specification.

    Args:
        width, height, depth, color: int. As in its header (IHDR).
        data: bytes. The rows, each after a byte of filter.
        **chunks: bytes. Further chunks by name, before the pixels.
    """

    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *((name.encode(), body) for name, body in chunks.items())]
    parts += [(b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bomb(width, height):
    """A white PNG of one bit a pixel: 100 megapixels in 13 KB."""
    return png(width, height, 1, 0, (b"\0" + b"\xff" * (-(-width // 8))) * height)


def giants():
    """Small files of enormous size, all of which must be refused by their headers: {name: bytes}"""
    small, files = Image.new("RGB", (16, 16), "gray"), {}
    for name, form in [
        ("giant_jpg.jpg", "JPEG"),
        ("giant_gif.gif", "GIF"),
        ("giant_bmp.bmp", "BMP"),
        ("giant_jp2.jp2", "JPEG2000"),
    ]:
        buffer = io.BytesIO()
        small.save(buffer, form)
        files[name] = bytearray(buffer.getvalue())
    frame = files["giant_jpg.jpg"].index(b"\xff\xc0")
    files["giant_jpg.jpg"][frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    descriptor = files["giant_gif.gif"].index(b",")
    for start in (6, descriptor + 5):
        files["giant_gif.gif"][start : start + 4] = struct.pack("<HH", 65535, 65535)
    files["giant_bmp.bmp"][18:26] = struct.pack("<ii", 100_000, 100_000)
    header = files["giant_jp2.jp2"].index(b"ihdr")
    files["giant_jp2.jp2"][header + 4 : header + 12] = struct.pack(">II", 1 << 30, 1 << 30)
    size = files["giant_jp2.jp2"].index(b"\xff\x51")
    files["giant_jp2.jp2"][size + 6 : size + 14] = struct.pack(">II", 1 << 30, 1 << 30)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((16, 16), np.uint8), photometric="minisblack")
    tiff = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(tiff)) as file:
        tags = file.pages[0].tags
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tags_at = tags[tag].offset
            tiff[tags_at + 2 : tags_at + 12] = struct.pack("<HII", 4, 1, 1 << 20)
    files["giant_tif.tif"] = tiff
    files["giant_png.png"] = png(1 << 30, 1 << 30)
    return {name: bytes(data) for name, data in files.items()}
