"""What a file says beside its pixels: date, place, author, resolution, who made its colors."""

import contextlib
import struct
import zlib
from typing import NamedTuple
from xml.dom import minidom

import pyvips
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# https://cv.iptc.org/newscodes/digitalsourcetype/: a photo that a trained model added something to.
MACHINE_COLORED = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
_NEW_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"/></x:xmpmeta>'
    '<?xpacket end="w"?>'
).encode()
_LARGEST_SEGMENT = 65_000  # bytes; a JPEG's segments end at 64 KiB

# The tags of a TIFF that describe the photo, not how its pixels lie in the file: document name,
# description, make, model, page name, software, date, author, host, copyright, Windows' five.
_DESCRIPTIVE = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, *range(40091, 40096))
_EXIF_IFD, _GPS_IFD, _IPTC_TAG = 0x8769, 0x8825, 33723
# Offsets into the old file, and the old size: interoperability, width, height.
_NOT_CARRIED = (0xA005, 0xA002, 0xA003)


class Metadata(NamedTuple):
    """What `photos.load` found beside the pixels, in the form in which every format takes it."""

    exif: bytes | None = None  # a TIFF structure, without the prefix Exif
    xmp: bytes | None = None
    iptc: bytes | None = None  # IIM records
    dpi: tuple[float, float] | None = None


def of_vips(image):
    """The metadata of an opened libvips image: Metadata, or None if there is none."""
    xmp, photoshop = _blob(image, "xmp-data"), _blob(image, "iptc-data")
    dpi = (image.xres * 25.4, image.yres * 25.4) if (image.xres, image.yres) != (1, 1) else None
    return _checked(_blob(image, "exif-data"), xmp, _iim_records(photoshop), dpi)


def of_pillow(picture):
    """The metadata of an opened PIL image: Metadata, or None if there is none."""
    info = picture.info
    return _checked(info.get("exif"), info.get("xmp"), None, info.get("dpi"))


def of_tiff(image, file, page):
    """The metadata of a page of a TIFF: Metadata, or None if there is none.

    libvips takes the XMP and the resolution from it, but neither the tags nor the EXIF directory.

    Args:
        image: the page as an opened libvips image.
        file: the file, open for reading.
        page: formats.TiffPage.
    """
    found, kept, iptc = Image.Exif(), Image.Exif(), None
    with contextlib.suppress(Exception):  # A damaged directory: what was read until then is kept.
        found.endian = page.order
        found.load_from_fp(file, page.offset)
        iptc = found.get(_IPTC_TAG)
        if isinstance(iptc, tuple):  # Many programs call these bytes 32-bit numbers.
            iptc = struct.pack(f"{page.order}{len(iptc)}L", *iptc)
        for tag, value in _describing(found).items():
            kept[tag] = value
    exif = None
    with contextlib.suppress(Exception):
        exif = kept.tobytes() if len(kept) else None
    others = of_vips(image) or Metadata()
    return _checked(exif, others.xmp, iptc if isinstance(iptc, bytes) else None, others.dpi)


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
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    jpeg = suffix.startswith(".j")
    xmp = _packet(metadata.xmp, made_by)
    if made_by and jpeg and len(xmp) > _LARGEST_SEGMENT:
        xmp = _packet(None, made_by)  # else libvips would leave out all of it
    iptc = _photoshop(metadata.iptc) if metadata.iptc and jpeg else None
    for name, blob in (("exif-data", metadata.exif), ("xmp-data", xmp), ("iptc-data", iptc)):
        if blob:
            image.set_type(pyvips.GValue.blob_type, name, blob)
    # Without this libvips makes an EXIF block up, of 25.4 dpi.
    made_up = not metadata.exif and not metadata.dpi
    return image, {"keep": "icc:xmp:iptc" if made_up else "all"}


def finish(path, metadata):
    """Puts into a PNG or TIFF that libvips wrote what libvips has no way to say.

    Args:
        path: Path of the file.
        metadata: Metadata or None.
    """
    metadata = metadata or Metadata()
    suffix = path.suffix.lower()
    if suffix == ".png" and not metadata.dpi:
        _unknown_resolution(path)
    elif suffix.startswith(".tif"):
        _add_tags(path, metadata)


def _blob(image, name):
    return bytes(image.get(name)) if image.get_typeof(name) else None


def _checked(exif, xmp, iptc, dpi):
    exif = _without_thumbnail(exif)
    dpi = dpi or _exif_dpi(exif)
    if dpi and not (dpi[0] > 0 and dpi[1] > 0):
        dpi = None
    # Fill bytes stand after many a packet.
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    metadata = Metadata(exif, xmp.rstrip(b"\0 ") if xmp else None, iptc or None, dpi)
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


def _exif_dpi(exif):
    with contextlib.suppress(Exception):  # damaged in one of many ways, or nothing there
        found = Image.Exif()
        found.load(exif)
        scale = {2: 1, 3: 2.54}[found.get(296, 2)]
        return float(found[282]) * scale, float(found[283]) * scale
    return None


def _describing(exif):
    """The tags of a PIL Exif that describe the photo, with its EXIF and GPS directories: dict."""
    tags = {tag: exif[tag] for tag in _DESCRIPTIVE if tag in exif}
    for number in (_EXIF_IFD, _GPS_IFD):
        directory = exif.get_ifd(number) if number in exif else None
        if directory:
            tags[number] = {
                tag: _as_read(value) for tag, value in directory.items() if tag not in _NOT_CARRIED
            }
    return {tag: _as_read(value) for tag, value in tags.items()}


def _as_read(value):
    # Pillow reads text as Latin-1 and would write question marks for all that isn't ASCII.
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1")
    return value


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
        for child in list(description.childNodes):
            if (child.namespaceURI, child.localName) in remove:
                description.removeChild(child)
    if made_by:
        about = descriptions[0].getAttributeNS(_RDF, "about") if descriptions else ""
        rdf.appendChild(_mark(document, rdf.prefix, about, made_by))
    return "".join(node.toxml() for node in document.childNodes).encode()


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


def _unknown_resolution(path):
    """Sets the unit of a PNG's resolution to unknown."""
    with open(path, "r+b") as file:
        start = file.read(4096).find(b"pHYs")
        if start < 0:
            return
        file.seek(start)
        chunk = b"pHYs" + struct.pack(">LLB", 1, 1, 0)
        file.write(chunk + struct.pack(">L", zlib.crc32(chunk)))


def _add_tags(path, metadata):
    """Gives a TIFF a new directory: libvips' own, and the tags that describe the photo."""
    with open(path, "r+b") as file:
        head = file.read(8)
        tags = ImageFileDirectory_v2(head)
        with contextlib.suppress(Exception):  # a damaged block
            found = Image.Exif()
            found.load(metadata.exif or b"")
            for tag, value in _describing(found).items():
                tags[tag] = value
        if metadata.iptc:
            tags[_IPTC_TAG] = metadata.iptc
        if not metadata.dpi:
            tags[282], tags[283], tags[296] = 1.0, 1.0, 1  # a ratio of 1, and no unit
        order = "<" if head[:2] == b"II" else ">"
        entries = _entries(file, order, *struct.unpack(f"{order}L", head[4:]))
        end = file.seek(0, 2)
        end += file.write(b"\0" * (end % 2))
        file.write(tags.tobytes(end))
        entries |= _entries(file, order, end)
        start = file.seek(0, 2)
        rows = [entries[tag] for tag in sorted(entries)]
        file.write(struct.pack(f"{order}H", len(rows)) + b"".join(rows) + b"\0" * 4)
        file.seek(4)
        file.write(struct.pack(f"{order}L", start))


def _entries(file, order, offset):
    """The entries of a TIFF's directory: {tag: 12 bytes}."""
    file.seek(offset)
    (count,) = struct.unpack(f"{order}H", file.read(2))
    rows = [file.read(12) for _ in range(count)]
    return {struct.unpack(f"{order}H", row[:2])[0]: row for row in rows}
