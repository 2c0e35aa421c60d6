"""What kind of picture a file is, told by its content, and which page of a TIFF is the photo."""

import logging
import re
from itertools import islice
from typing import NamedTuple

# Its warnings about odd headers would stand between the lines of the command.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBPVP8", "WebP"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF-", "PDF"),
    *((0, b"P%d\n" % number, "PNM") for number in range(1, 8)),
    *((0, start, "raw") for start in (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR")),
    *((0, start, "raw") for start in (b"\0MRM", b"FOVb")),
    (4, b"ftypcrx ", "raw"),
    (8, b"CR\x02", "raw"),
    *((0, start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
_AV1 = {b"avif", b"avis"}
_HEVC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
HEAD = 512  # bytes of a file that `kind` asks for

_RAW_PIXELS = (32803, 34892)  # PhotometricInterpretation: color filter array, linear raw
_LAB = (8, 9, 10)  # CIE, ICC and ITU
_READABLE = {(1, bits) for bits in (1, 2, 4, 8, 16)} | {(3, 16), (3, 32)}  # format, bits
_NUMBERS = {1: "integer", 2: "signed integer", 3: "float", 5: "complex integer", 6: "complex"}
_MOST_PAGES = 4096  # A hostile file can chain millions.

# Neither stuffing nor a restart, which stand amid the pixels.
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")


def kind(head):
    """The name of a file's format by its first `HEAD` bytes: str, or None for no picture."""
    for offset, signature, name in _SIGNATURES:
        if head.startswith(signature, offset):
            return name
    if head[4:8] == b"ftyp":
        size = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[at : at + 4] for at in (8, *range(16, size, 4))}
        return "AVIF" if brands & _AV1 else "HEIC" if brands & _HEVC else None
    # "BM" begins many a text; the size of the header that follows tells.
    size = int.from_bytes(head[14:18], "little")
    return "BMP" if head[:2] == b"BM" and size in (12, 16, 40, 52, 56, 64, 108, 124) else None


class TiffPage(NamedTuple):
    """The page of a TIFF that is the photo."""

    index: int  # among all pages
    offset: int  # of its directory in the file
    pages: int  # how many are full-size
    alpha: int | None  # which of the channels beside the color is transparency
    problem: str | None  # why its pixels can't be used


def tiff_page(file, wanted=0):
    """Finds a page of a TIFF by the header.

    Reduced pictures (thumbnails, levels of a pyramid) and transparency masks are no pages, unless
    there is nothing else.

    Args:
        file: binary file.
        wanted: int. Which of the full-size pages; the nearest if there is no such page. Defaults
            to 0, the first.

    Returns:
        A TiffPage, or None where the header is damaged.
    """
    import tifffile  # takes a tenth of a second, and the other formats do without

    try:
        with tifffile.TiffFile(file) as tiff:
            pages = list(islice(tiff.pages, _MOST_PAGES))
            full = [page for page in pages if not page.subfiletype & 0b101]
            problem = _structure_problem(pages, full)
            full = full or pages
            page = full[min(max(wanted, 0), len(full) - 1)]
            problem = problem or _pixel_problem(page)
            extras = [int(extra) for extra in page.extrasamples]
            alpha = next((i for i, extra in enumerate(extras) if extra in (1, 2)), None)
            return TiffPage(page.index, page.offset, len(full), alpha, problem)
    except Exception:  # A hostile header breaks the parser in many ways; libvips has the last word.
        return None


def _structure_problem(pages, full):
    # The pixels of most raw files lie below a thumbnail.
    below = list(islice(pages[0].pages or (), _MOST_PAGES))
    if 50706 in pages[0].tags or any(p.photometric in _RAW_PIXELS for p in [*pages, *below]):
        return "a camera's raw file, which"
    if below and not full:
        return "a TIFF whose photo lies below a reduced picture, which"
    return None


def _pixel_problem(page):
    if page.photometric in _LAB:
        return "a Lab picture, which"
    if (page.sampleformat, page.bitspersample) not in _READABLE:
        numbers = _NUMBERS.get(page.sampleformat, "untyped")
        return f"a TIFF of {page.bitspersample}-bit {numbers} pixels, which"
    return None


def jp2_profile(head):
    """The ICC profile in the first bytes of a JPEG 2000 file: bytes, or None."""
    start = head.find(b"colr\x02")
    if start < 4:
        return None
    size = int.from_bytes(head[start - 4 : start], "big")  # of the box, with these four
    return head[start + 7 : start - 4 + size] or None


def jp2_depth(head):
    """Bits of a JPEG 2000 file's first channel, by its first bytes; 8 where they don't tell."""
    marker = head.find(b"\xff\x4f\xff\x51") + 2  # SIZ, behind that of the start
    return (head[marker + 40] & 0x7F) + 1 if 2 <= marker < len(head) - 40 else 8


def jpeg_has_all_scans(data):
    """Whether the scans of a JPEG, by their headers, hold every coefficient to the last bit.

    A progressive JPEG that ends between two scans decodes without an error, at less quality.
    """
    missing, position = set(), 0
    while marker := _JPEG_MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        if code in (0x01, 0xD8, 0xD9):  # They have no body.
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        body = data[position + 2 : position + length]
        if len(body) < length - 2:
            return False
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):  # the frame
            missing = {(component, k) for component in body[6::3] for k in range(64)}
        elif code == 0xDA and len(body) >= 4 and not body[-1] & 15:  # a scan, to the last bit
            components, (first, last) = body[1 : 1 + 2 * body[0] : 2], body[-3:-1]
            missing -= {(component, k) for component in components for k in range(first, last + 1)}
        position += length
    return not missing
