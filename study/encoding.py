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

# Of colors in wrong places: patches along the longer side; the least mean chroma, in units of Lab;
# how many arrangements are tried for the one that differs most from the photo.
_PATCHES, _CATCH_CHROMA, _ARRANGEMENTS = 4, 30.0, 8
_END = b"\xff\xd9"  # JPEG's marker EOI (ITU-T T.81, table B.1)


def shrink(path, longest_side):
    """A photo as uint8 (H, W, 3), reduced to `longest_side`, px, if its longest side is larger."""
    rgb = photos.to_uint8(photos.read(path))
    scale = longest_side / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    return photos.resize(rgb, height, width, method="lanczos")


def misplaced_colors(ab, rng):
    """The photo's own ab (H, W, 2) in wrong places: smooth patches across the photo.

    Zhang, Isola and Efros 2016 copy the colors of another photo; those sometimes look right, and an
    attentive person who says so would be excluded. Random hues would be plain to people, but also
    to a script that looks at how the hues of a photo are spread. Colors that only change places
    keep such statistics. Those of a dull photo are made as strong as colorful photos have them.
    """
    height, width, _ = ab.shape
    colors = ab.reshape(-1, 2)
    centered = colors - colors.mean(axis=0)
    axis = np.linalg.svd(centered.T @ centered)[0][:, 0]  # along which the colors differ most
    in_order = colors[np.argsort(centered @ axis, kind="stable")]
    gain = max(1, _CATCH_CHROMA / max(np.linalg.norm(colors, axis=1).mean(), 1e-6))
    cells = [max(2, round(_PATCHES * side / max(height, width))) for side in (height, width)]

    def arranged():
        steps = rng.permutation(np.prod(cells)).reshape(cells).astype(np.float32)
        moved = np.empty_like(colors)
        places = np.argsort(photos.resize(steps, height, width).ravel(), kind="stable")
        moved[places] = gain * in_order
        return moved

    tried = [arranged() for _ in range(_ARRANGEMENTS)]
    return max(tried, key=lambda moved: _distance(moved, colors)).reshape(ab.shape)


def _distance(ab, other) -> float:
    return float(np.linalg.norm(ab - other, axis=-1).mean())


def color_difference(rgb, other) -> float:
    """The mean distance of two photos' colors in ab, in units of Lab; lightness does not count."""
    from colorlib import metrics

    return _distance(metrics.ab_of(rgb), metrics.ab_of(other))


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
