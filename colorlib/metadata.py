"""What a file says beside its pixels: date, place, author, resolution, who made its colors."""

import contextlib
import io
import struct
import zlib
from typing import NamedTuple
from xml.dom import minidom

import numpy as np
import pyvips

# https://cv.iptc.org/newscodes/digitalsourcetype/: a photo that a trained model added something to.
MACHINE_COLORED = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
# What speaks of parts of the old file: a phone's video, depth and gain maps, further packets.
_OF_PARTS = (
    "http://ns.google.com/photos/1.0/camera/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.adobe.com/xmp/note/",
)
_NEW_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"/></x:xmpmeta>'
    '<?xpacket end="w"?>'
).encode()
_BLOCK = 1 << 22  # bytes
_LARGEST_SEGMENT = 65_000  # bytes; a JPEG's segments end at 64 KiB

# The tags of a TIFF that describe the photo, not how its pixels lie in the file: document name,
# description, make, model, page name, software, date, author, host, copyright, Windows' five.
_DESCRIPTIVE = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, *range(40091, 40096))
_EXIF, _GPS, _IIM, _RESOLUTION = 0x8769, 0x8825, 33723, (282, 283, 296)
_COLOR_SPACE = 0xA001
# Offsets into the old file, and the old size: interoperability, width, height.
_NOT_CARRIED = (0xA005, 0xA002, 0xA003)
# Types of values: bytes of a number, numbers in a value.
_TYPES = {
    **dict.fromkeys((1, 2, 6, 7), (1, 1)),
    **dict.fromkeys((3, 8), (2, 1)),
    **dict.fromkeys((4, 9, 11, 13), (4, 1)),
    **dict.fromkeys((5, 10), (4, 2)),
    **dict.fromkeys((12, 16, 17, 18), (8, 1)),
}
_SHORT, _LONG, _RATIONAL, _UNDEFINED = 3, 4, 5, 7
# What offsets that lead out of the file end in.
_DAMAGED = (struct.error, OSError, OverflowError, ValueError)
_LARGEST_DIRECTORY = 1 << 20  # bytes; in a hostile one many entries can share a large value


class Metadata(NamedTuple):
    """What `photos.load` found beside the pixels, in the form in which every format takes it."""

    exif: bytes | None = None  # a TIFF structure, without the prefix Exif
    xmp: bytes | None = None
    iptc: bytes | None = None  # IIM records
    dpi: tuple[float, float] | None = None
    texts: bytes | None = None  # a PNG's chunks of text


def of_vips(image):
    """The metadata of an opened libvips image: Metadata, or None if there is none."""
    xmp, photoshop = _blob(image, "xmp-data"), _blob(image, "iptc-data")
    # libvips tells whether a file has a resolution by this field, but for PNG, and knows 1 pixel a
    # millimeter for none, in PNG 2.834.
    known = image.get_typeof("resolution-unit") or image.get("vips-loader").startswith("png")
    dpi = None
    if known and image.xres not in (1.0, 2.834):
        dpi = (image.xres * 25.4, image.yres * 25.4)
    return _checked(_blob(image, "exif-data"), xmp, _iim_records(photoshop), dpi)


def of_pillow(picture):
    """The metadata of an opened PIL image: Metadata, or None if there is none."""
    info = picture.info
    return _checked(info.get("exif"), info.get("xmp"), None, info.get("dpi"))


def of_png(image, file):
    """The metadata of a PNG: Metadata, or None if there is none.

    libvips would spoil its texts: keywords with a space, and all that is not ASCII.

    Args:
        image: the opened libvips image.
        file: the file, open for reading.
    """
    texts = b""
    with contextlib.suppress(*_DAMAGED):
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">L4s", head)
            if kind not in (b"tEXt", b"zTXt", b"iTXt") or size > _LARGEST_DIRECTORY:
                file.seek(size + 4, 1)
                continue
            content = file.read(size + 4)
            # XMP has a place of its own, and other old forms than IPTC's may be outdated.
            old = content.startswith(b"Raw profile type") and b"iptc\0" not in content[:30]
            check = zlib.crc32(kind + content[:size]).to_bytes(4, "big")
            if content[size:] == check and not content.startswith(b"XML:") and not old:
                texts += head + content
            if len(texts) > _LARGEST_DIRECTORY:
                break
    others = of_vips(image) or Metadata()
    return _checked(others.exif, others.xmp, others.iptc, others.dpi, texts)


def of_tiff(image, file, offset):
    """The metadata of a page of a TIFF: Metadata, or None if there is none.

    libvips takes the XMP and the resolution from it, but neither the tags nor the EXIF directory.

    Args:
        image: the page as an opened libvips image.
        file: the file, open for reading.
        offset: int. Where the page's directory begins.
    """
    exif = iptc = None
    with contextlib.suppress(*_DAMAGED):
        tags = _describing(file, offset)
        _, iptc = tags.pop(_IIM, (None, None))
        if tags:
            exif = b"II*\0" + struct.pack("<L", 8) + _directory(tags, "<", 8)
    others = of_vips(image) or Metadata()
    return _checked(exif, others.xmp, iptc, others.dpi)


def attach(image, metadata, made_by, suffix):
    """Gives a libvips image what its file is to say.

    Args:
        image: libvips image.
        metadata: Metadata or None.
        made_by: str or None. What made the colors.
        suffix: str. The format of the file.

    Returns:
        the image, and the options with which libvips writes it.
    """
    metadata = metadata or Metadata()
    # 72 is EXIF's word for an unknown resolution.
    x, y = metadata.dpi or (72, 72)
    image = image.copy(xres=x / 25.4, yres=y / 25.4)
    jpeg = suffix.startswith(".j")
    xmp = _packet(metadata.xmp, made_by)
    if made_by and jpeg and len(xmp) > _LARGEST_SEGMENT:
        xmp = _packet(None, made_by)  # else libvips would leave out all of it
    iptc = _photoshop(metadata.iptc) if metadata.iptc and jpeg else None
    if suffix == ".png":
        xmp = None  # `finish` puts it where other programs look for it.
    for name, blob in (("exif-data", metadata.exif), ("xmp-data", xmp), ("iptc-data", iptc)):
        if blob:
            image.set_type(pyvips.GValue.blob_type, name, blob)
    # After the block, which would overrule it.
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    # Without this libvips makes an EXIF block up, of 25.4 dpi.
    made_up = not metadata.exif and not metadata.dpi
    return image, {"keep": "icc:xmp:iptc" if made_up else "all"}


def finish(path, metadata, made_by):
    """Puts into a PNG or TIFF that libvips wrote what libvips has no way to say.

    Args:
        path: Path of the file.
        metadata: Metadata or None.
        made_by: str or None. As for `attach`.
    """
    metadata = metadata or Metadata()
    suffix = path.suffix.lower()
    if suffix == ".png":
        _finish_png(path, _packet(metadata.xmp, made_by), metadata)
    elif suffix.startswith(".tif"):
        _add_tags(path, metadata)


def _blob(image, name):
    return bytes(image.get(name)) if image.get_typeof(name) else None


def _checked(exif, xmp, iptc, dpi, texts=None):
    exif = _as_srgb(_without_thumbnail(exif))
    dpi = dpi or _exif_dpi(exif)
    if dpi and not all(0.1 < value < 1e6 for value in dpi):
        dpi = None
    # Fill bytes stand after many a packet.
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    xmp = xmp.rstrip(b"\0 ") if xmp else None
    metadata = Metadata(exif, xmp, iptc or None, dpi, texts or None)
    return metadata if any(metadata) else None


def _without_thumbnail(exif):
    """The block without its second directory, which is a thumbnail's; None for a damaged block."""
    exif = (exif or b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        block = bytearray(exif)
        struct.pack_into(f"{order}L", block, start + 2 + 12 * count, 0)
    except struct.error:
        return None
    return bytes(block)


def _as_srgb(exif):
    """The block of pixels that are sRGB now: one that names a color space names that."""
    block = bytearray(exif or b"")
    order = "<" if block[:2] == b"II" else ">"

    def find(start, wanted):
        (count,) = struct.unpack_from(f"{order}H", block, start)
        places = range(start + 2, start + 2 + 12 * count, 12)
        return next(at for at in places if struct.unpack_from(f"{order}H", block, at) == (wanted,))

    with contextlib.suppress(struct.error, StopIteration):  # or it names none
        (first,) = struct.unpack_from(f"{order}L", block, 4)
        (below,) = struct.unpack_from(f"{order}L", block, find(first, _EXIF) + 8)
        struct.pack_into(f"{order}H", block, find(below, _COLOR_SPACE) + 8, 1)
    return bytes(block) or None


def _exif_dpi(exif):
    with contextlib.suppress(*_DAMAGED, KeyError, ZeroDivisionError):  # or it isn't there
        tags = _entries(io.BytesIO(exif or b""), None, _RESOLUTION)
        unit = int.from_bytes(tags[296][1], "little") if 296 in tags else 2
        pairs = [struct.unpack("<LL", tags[tag][1]) for tag in _RESOLUTION[:2]]
        x, y = (over / under * {2: 1, 3: 2.54}[unit] for over, under in pairs)
        return x, y
    return None


def _iim_records(photoshop):
    """The IPTC records among the resources that Photoshop keeps in a JPEG."""
    start = (photoshop or b"").find(b"8BIM\x04\x04")
    if start < 0 or len(photoshop) < start + 12:
        return None
    start += 6 + (photoshop[start + 6] | 1) + 1  # a name of even length, nearly always empty
    size = int.from_bytes(photoshop[start : start + 4], "big")
    return photoshop[start + 4 : start + 4 + size]


def _photoshop(iim):
    size = len(iim).to_bytes(4, "big")
    return b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + size + iim + b"\0" * (len(iim) % 2)


def _packet(xmp, made_by):
    """The XMP of an upright photo without a thumbnail, and with its colors' maker if given."""
    try:
        return _upright_and_marked(xmp, made_by)
    except RecursionError:  # a hostile packet, of a thousand levels
        return _upright_and_marked(None, made_by)


def _upright_and_marked(xmp, made_by):
    document = _parsed(xmp)
    if document is None:
        if not made_by:
            return xmp
        document = minidom.parseString(_NEW_PACKET)
    (rdf,) = document.getElementsByTagNameNS(_RDF, "RDF")
    remove = [(_TIFF, "Orientation"), (_XMP, "Thumbnails")]
    if made_by:
        remove += [(_XMP, "CreatorTool"), (_IPTC, "DigitalSourceType")]
    descriptions = [node for node in rdf.childNodes if node.localName == "Description"]
    for description in descriptions:
        for name in remove:
            if description.hasAttributeNS(*name):
                description.removeAttributeNS(*name)
        for attribute in list(description.attributes.values()):
            if attribute.namespaceURI in _OF_PARTS:
                description.removeAttributeNode(attribute)
        for child in list(description.childNodes):
            if (child.namespaceURI, child.localName) in remove or child.namespaceURI in _OF_PARTS:
                description.removeChild(child)
    if made_by:
        about = descriptions[0].getAttributeNS(_RDF, "about") if descriptions else ""
        rdf.appendChild(_mark(document, rdf.prefix, about, made_by))
    return "".join(node.toxml() for node in document.childNodes).encode(errors="replace")


def _mark(document, prefix, about, made_by):
    prefix = f"{prefix}:" if prefix else ""
    node = document.createElementNS(_RDF, f"{prefix}Description")
    node.setAttributeNS(_RDF, f"{prefix or 'rdf:'}about", about)
    node.setAttribute("xmlns:xmp", _XMP)
    node.setAttribute("xmlns:Iptc4xmpExt", _IPTC)
    node.setAttributeNS(_XMP, "xmp:CreatorTool", made_by)
    node.setAttributeNS(_IPTC, "Iptc4xmpExt:DigitalSourceType", MACHINE_COLORED)
    return node


def _parsed(xmp):
    # Entities, of which XMP has none, can blow a small file up to gigabytes.
    if not xmp or b"<!DOCTYPE" in xmp:
        return None
    try:
        document = minidom.parseString(xmp)
        return document if len(document.getElementsByTagNameNS(_RDF, "RDF")) == 1 else None
    except Exception:  # expat's error, and those of encodings
        return None


def _finish_png(path, xmp, metadata):
    """Puts XMP into a PNG as its standard wants it (libvips compresses it), and its texts.

    What libvips makes up for an unknown resolution goes.
    """
    with open(path, "r+b") as file:
        start = file.read(4096).find(b"pHYs")
        if start > 0 and not metadata.dpi:
            file.seek(start)
            content = b"pHYs" + struct.pack(">LLB", 1, 1, 0)  # square pixels, of no known size
            file.write(content + struct.pack(">L", zlib.crc32(content)))
        if metadata.texts:
            _insert(file, 33, metadata.texts)
        if xmp:
            content = b"iTXtXML:com.adobe.xmp" + bytes(5) + xmp
            size, check = len(content) - 4, zlib.crc32(content)
            _insert(file, 33, struct.pack(">L", size) + content + struct.pack(">L", check))


def _insert(file, position, data):
    """Puts bytes into a file: what follows is moved, from its end, a block at a time."""
    end = file.seek(0, 2)
    while end > position:
        start = max(position, end - _BLOCK)
        file.seek(start)
        block = file.read(end - start)
        file.seek(start + len(data))
        file.write(block)
        end = start
    file.seek(position)
    file.write(data)


def _add_tags(path, metadata):
    """Gives a TIFF a new directory: libvips' own entries, and those that describe the photo."""
    tags = {}
    with contextlib.suppress(*_DAMAGED):
        tags = _describing(io.BytesIO(metadata.exif or b""))
    if metadata.iptc:
        tags[_IIM] = _UNDEFINED, metadata.iptc
    if not metadata.dpi:
        one = _RATIONAL, struct.pack("<LL", 1, 1)
        tags |= {282: one, 283: one, 296: (_SHORT, struct.pack("<H", 1))}  # no unit
    with open(path, "r+b") as file:
        order, _ = _byte_order(file)
        start = struct.unpack(f"{order}L", file.read(4))[0]
        rows = _rows(file, order, start)
        end = file.seek(0, 2)
        end += file.write(b"\0" * (end % 2))
        file.write(_directory(tags, order, end))
        rows |= _rows(file, order, end)
        start = file.seek(0, 2)
        table = b"".join(rows[tag] for tag in sorted(rows))
        file.write(struct.pack(f"{order}H", len(rows)) + table + bytes(4))
        file.seek(4)
        file.write(struct.pack(f"{order}L", start))


def _rows(file, order, start):
    """The entries of a directory as they stand in the file: {tag: 12 bytes}."""
    file.seek(start)
    (count,) = struct.unpack(f"{order}H", file.read(2))
    rows = [file.read(12) for _ in range(count)]
    return {struct.unpack(f"{order}H", row[:2])[0]: row for row in rows}


def _byte_order(file):
    """The order of bytes of a TIFF (< or >), and whether it is a BigTIFF; leaves the file at 4."""
    file.seek(0)
    head = file.read(4)
    return "<" if head[:2] == b"II" else ">", 43 in head[2:]


def _describing(file, offset=None):
    """The entries of a TIFF's directory that describe the photo, with those of EXIF and GPS below.

    Returns:
        dict: tag to its type and its value in little-endian order, or to a dict of such.
    """
    tags = _entries(file, offset, (*_DESCRIPTIVE, _EXIF, _GPS, _IIM))
    for number in (_EXIF, _GPS):
        if number in tags:
            start = int.from_bytes(tags.pop(number)[1], "little")
            below = _entries(file, start)
            if below:
                tags[number] = {tag: below[tag] for tag in below if tag not in _NOT_CARRIED}
    return tags


def _entries(file, offset=None, wanted=None):
    """The entries of a TIFF's directory, by default of the first: {tag: (type, bytes)}."""
    order, big = _byte_order(file)
    number, pointer, row = ("Q", "Q", "HHQ8s") if big else ("H", "L", "HHL4s")
    number, pointer, row = (struct.Struct(order + form) for form in (number, pointer, row))
    if offset is None:
        (offset,) = pointer.unpack(file.read(pointer.size))
    file.seek(offset)
    (count,) = number.unpack(file.read(number.size))
    rows = file.read(min(count, 1 << 16) * row.size)
    tags, total = {}, 0
    for tag, kind, count, value in row.iter_unpack(rows[: len(rows) // row.size * row.size]):
        width, each = _TYPES.get(kind, (0, 0))
        size = width * each * count
        total += size
        if not size or total > _LARGEST_DIRECTORY or (wanted and tag not in wanted):
            total -= size
            continue
        if size > len(value):
            file.seek(pointer.unpack(value)[0])
            value = file.read(size)
        if len(value) >= size:
            tags[tag] = kind, _swapped(value[:size], width, order, "<")
    return tags


def _directory(tags, order, start):
    """The bytes of a directory of these entries that stands at `start`, with all that is below."""
    data, rows = b"", b""
    below = start + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        place = struct.pack(f"{order}L", below + len(data))
        if isinstance(value, dict):
            kind, count = _LONG, 1
            data += _directory(value, order, below + len(data))
        else:
            kind, content = value
            width, each = _TYPES[kind]
            count = len(content) // (width * each)
            content = _swapped(content, width, "<", order)
            if len(content) <= 4:
                place = content.ljust(4, b"\0")
            else:
                data += content
        data += b"\0" * (len(data) % 2)
        rows += struct.pack(f"{order}HHL", tag, kind, count) + place
    return struct.pack(f"{order}H", len(tags)) + rows + bytes(4) + data


def _swapped(value, width, before, after):
    return np.frombuffer(value, f"{before}u{width}").astype(f"{after}u{width}").tobytes()
