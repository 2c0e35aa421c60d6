"""A photo in one of its versions, as a JPEG that has the length of all others.

**Length.** Color changes the size of a JPEG, so every file of a study is padded to one length. The
padding follows the picture's end marker. Phones store motion photos there, and all browsers ignore
such data. A comment segment would also work, but its length would appear in the header. Here, the
headers of all photos of one shape are identical (the Huffman tables are the standard's, not fitted
to the photo). The padding is random, so that compression on the way can't reveal the old length. It
contains no markers and ends like a JPEG. Where the picture ends in the file follows from its pixels
and reveals no more than they do.
"""

import numpy as np

from colorlib import photos

BLOCK = 1024  # Bytes; the common length is a multiple of it.

_PATCHES, _PATCH_CHROMA = 4, 50.0  # Of random colors: along the longer side, in units of Lab.
_END = b"\xff\xd9"  # JPEG's marker EOI (ITU-T T.81, table B.1)


def shrink(path, longest_side):
    """A photo as uint8 (H, W, 3), reduced to `longest_side`, px, if its longest side is larger."""
    rgb = photos.to_uint8(photos.read(path))
    scale = longest_side / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    return photos.resize(rgb, height, width, method="lanczos")


def random_colors(shape, rng):
    """An ab (H, W, 2) that no photo has: smooth patches of random hues, a few across the photo.

    Zhang, Isola and Efros 2016 copy the colors of another photo. Those sometimes look right, and an
    attentive person who says so would be excluded.
    """
    cells = [max(2, round(_PATCHES * side / max(shape))) for side in shape]
    angle = rng.uniform(0, 2 * np.pi, cells)
    planes = [(_PATCH_CHROMA * wave(angle)).astype(np.float32) for wave in (np.cos, np.sin)]
    return np.stack([photos.resize(plane, *shape[:2]) for plane in planes], axis=-1)


def color_difference(rgb, other) -> float:
    """The mean distance of two photos' colors in ab, in units of Lab; lightness does not count."""
    from colorlib import metrics

    distance = metrics.ab_of(rgb) - metrics.ab_of(other)
    return float(np.sqrt((distance**2).sum(axis=-1)).mean())


def encode(rgb, quality) -> bytes:
    """A JPEG of uint8 (H, W, 3) without metadata, in full color resolution."""
    import pyvips

    height, width = rgb.shape[:2]
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(rgb).data, width, height, 3, "uchar")
    return image.copy(interpretation="srgb").jpegsave_buffer(
        Q=quality, subsample_mode="off", optimize_coding=False, keep="none"
    )


def common_length(coded) -> int:
    """The length to which all of these files are padded."""
    return -(-(max(map(len, coded)) + len(_END)) // BLOCK) * BLOCK


def padded(coded, length, seed) -> bytes:
    """A file with random bytes behind the picture, `length` bytes in all."""
    count = length - len(coded) - len(_END)
    noise = np.random.default_rng(seed).integers(0, 0xFF, count, dtype=np.uint8)
    return coded + noise.tobytes() + _END


def split_jpeg(content) -> tuple[bytes, bytes, bytes]:
    """A stimulus' three parts: the header, the coded picture with its end marker, the padding.

    The padding has no marker bytes except its last two, so the marker before them ends the
    picture.
    """
    start = content.index(b"\xff\xda")  # SOS, behind which there is the coded picture
    start += 2 + int.from_bytes(content[start + 2 : start + 4])
    end = content.rindex(_END, 0, -len(_END)) + len(_END)
    return content[:start], content[start:end], content[end:]
