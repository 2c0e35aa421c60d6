"""What files say beside their pixels, read by Pillow and tifffile."""

import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, IptcImagePlugin, PngImagePlugin

from colorlib import photos
from colorlib.metadata import MACHINE_COLORED, Metadata

CASES = Path(__file__).parent / "cases"
EVERY = ("jpg", "png", "tif", "webp", "avif")
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="uuid:1" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:mine="http://example.org/mine/" tiff:Orientation="6" xmp:CreatorTool="Scanner 3"'
    ' mine:box="12 &amp; 13"><dc:creator><rdf:Seq><rdf:li>Zoë Größer</rdf:li></rdf:Seq>'
    "</dc:creator><xmp:Rating>4</xmp:Rating></rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="w"?>'
).encode()


@pytest.fixture
def rgb():
    """A small picture without symmetry, smooth enough for every format."""
    y, x = np.mgrid[:6, :9]
    return np.stack([40 * y + 3 * x, 25 * x, 100 + 4 * (x + y)], axis=-1).astype(np.uint8)


def exif(**extra):
    """A block as a camera writes it: upside down, with a thumbnail's directory."""
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = 3
    block[ExifTags.Base.Artist] = "Zoë Größer".encode()
    block[ExifTags.Base.DateTime] = "1998:05:04 12:00:00"
    block[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "1938:07:01 12:00:00",
        ExifTags.Base.FNumber: 5.6,
        ExifTags.Base.UserComment: b"ASCII\0\0\0porch",
    }
    block[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (16.0, 22.0, 0.0)}
    for name, value in extra.items():
        block[ExifTags.Base[name]] = value
    return block.tobytes()


def xmp_of(path):
    """The XMP packet of a file; every format keeps it as it is."""
    found = re.search(rb"<x:xmpmeta.*?</x:xmpmeta>", path.read_bytes(), re.DOTALL)
    return found[0].decode() if found else None


@pytest.mark.parametrize("suffix", EVERY)
def test_exif_and_resolution_are_kept(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    photo = photos.load(CASES / "scan_600dpi_exif_date_copyright_gps.jpg")
    photos.write(path, photo.rgb, metadata=photo.metadata)
    with Image.open(path) as image:
        block = image.getexif()
        assert block[ExifTags.Base.ImageDescription] == "On the porch, 1938"
        assert block[ExifTags.Base.Copyright].strip() == "(c) Family archive"
        original = block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal]
        assert original == "1938:07:01 12:00:00"
        place = block.get_ifd(ExifTags.IFD.GPSInfo)
        assert place[1] == "N" and place[2] == (48, 12, 0) and place[4] == (16, 22, 0)
        assert block[ExifTags.Base.XResolution] == block[ExifTags.Base.YResolution] == 600
        assert "dpi" not in image.info or np.allclose(image.info["dpi"], 600, atol=0.02)
    assert photos.load(path).metadata.dpi == pytest.approx((600, 600))


@pytest.mark.parametrize("suffix", EVERY)
def test_what_is_written_is_upright_and_without_the_old_thumbnail(tmp_path, rgb, suffix):
    original, path = tmp_path / "original.jpg", tmp_path / f"photo.{suffix}"
    # A directory after the first one is the thumbnail's.
    block = bytearray(exif())
    (start,) = struct.unpack_from(">L", block, 10)
    (count,) = struct.unpack_from(">H", block, 6 + start)
    struct.pack_into(">L", block, 6 + start + 2 + 12 * count, len(block) - 6)
    block += struct.pack(">HHHLHHL", 1, 259, 3, 1, 6, 0, 0)
    Image.fromarray(rgb).save(original, quality=100, subsampling=0, exif=bytes(block))
    photo = photos.load(original)
    photos.write(path, photo.rgb, quality=100, metadata=photo.metadata)
    with Image.open(path) as image:
        block = image.getexif()
        assert block.get(ExifTags.Base.Orientation, 1) == 1
        assert not block.get_ifd(ExifTags.IFD.IFD1)
        # Pillow takes the bytes for Latin-1.
        assert block[ExifTags.Base.Artist].encode("latin-1").decode() == "Zoë Größer"
        details = block.get_ifd(ExifTags.IFD.Exif)
        assert float(details[ExifTags.Base.FNumber]) == pytest.approx(5.6)
        assert details[ExifTags.Base.UserComment] == b"ASCII\0\0\0porch"
        assert block.get_ifd(ExifTags.IFD.GPSInfo)[2] == (48, 12, 30)
    again = photos.load(path)
    assert np.abs(again.rgb.astype(int) - rgb[::-1, ::-1]).mean() < 12


def test_the_tags_of_a_tiff_are_kept(tmp_path):
    photo = photos.load(CASES / "scan_600dpi_16bit.tif")
    for suffix in EVERY:
        path = tmp_path / f"photo.{suffix}"
        photos.write(path, photo.rgb, metadata=photo.metadata)
        with Image.open(path) as image:
            block = image.getexif()
            assert block[ExifTags.Base.ImageDescription] == "On the porch, 1938"
            assert block[ExifTags.Base.DateTime] == "1998:05:04 12:00:00"
            assert block[ExifTags.Base.XResolution] == pytest.approx(600)
    with tifffile.TiffFile(tmp_path / "photo.tif") as tiff:
        (page,) = tiff.pages
        assert page.tags["ImageDescription"].value == "On the porch, 1938"
        assert page.resolution == (600, 600) and page.resolutionunit == 2
        codes = [tag.code for tag in page.tags]
        assert codes == sorted(codes)
    assert (photos.read(tmp_path / "photo.tif") == photo.rgb).all()
    assert (photos.read(tmp_path / "photo.png") == photo.rgb).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_either_byte_order_and_size(tmp_path, rgb, order, big):
    tags = [
        (315, "s", 0, "Zoë Größer".encode(), True),
        (33723, 7, 16, b"\x1c\x02\x50\0\x0bZo\xc3\xab Gr\xc3\xb6", True),
        (271, "s", 0, "ABC", True),
    ]
    tifffile.imwrite(
        tmp_path / "in.tif", rgb, photometric="rgb", byteorder=order, bigtiff=big, extratags=tags,
        resolution=(1200, 1200), resolutionunit="inch",
    )  # fmt: skip
    photo = photos.load(tmp_path / "in.tif")
    for suffix in ("tif", "jpg"):
        path = tmp_path / f"out.{suffix}"
        photos.write(path, photo.rgb, metadata=photo.metadata)
        with Image.open(path) as image:
            artist, make = (image.getexif()[tag] for tag in (315, 271))
            assert artist.encode("latin-1").decode() == "Zoë Größer" and make == "ABC"
            assert IptcImagePlugin.getiptcinfo(image)[2, 80].decode() == "Zoë Grö"
            assert np.allclose(image.info["dpi"], 1200)
    assert (photos.load(tmp_path / "out.tif").rgb == rgb).all()


def test_iptc_of_a_jpeg(tmp_path, rgb):
    iim = b"\x1c\x02\x50\0\x06Author\x1c\x02\x69\0\x05Porch"
    for suffix in ("jpg", "tif"):
        path = tmp_path / f"photo.{suffix}"
        photos.write(path, rgb, metadata=Metadata(iptc=iim))
        with Image.open(path) as image:
            found = IptcImagePlugin.getiptcinfo(image)
        assert found[2, 80] == b"Author" and found[2, 105] == b"Porch"
        assert photos.load(path).metadata.iptc[: len(iim)] == iim


def test_texts_of_a_png(tmp_path, rgb):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "Zoë Größer")  # Latin-1, as the standard has it
    texts.add_itxt("Description", "Anna, \u017deleznice 1911", lang="cs")
    texts.add_text("Raw profile type iptc", "\niptc\n      4\n1c025000\n", zip=True)
    texts.add_text("Raw profile type exif", "\nexif\n      4\n00000000\n")  # it may be outdated
    Image.fromarray(rgb).save(tmp_path / "in.png", pnginfo=texts)
    metadata = photos.load(tmp_path / "in.png").metadata
    for made_by in (None, "a test"):
        photos.write(tmp_path / "out.png", rgb, metadata=metadata, made_by=made_by)
        with Image.open(tmp_path / "out.png") as image:
            found = {key: value for key, value in image.text.items() if "xmp" not in key}
        assert found.pop("Raw profile type iptc").split() == ["iptc", "4", "1c025000"]
        assert found == {"Author": "Zoë Größer", "Description": "Anna, \u017deleznice 1911"}
    photos.write(tmp_path / "out.jpg", rgb, metadata=metadata)  # which has no place for them


@pytest.mark.parametrize("suffix", EVERY)
def test_xmp_is_kept_and_says_who_made_the_colors(tmp_path, rgb, suffix):
    path = tmp_path / f"photo.{suffix}"
    photos.write(path, rgb, metadata=Metadata(xmp=XMP), made_by="colorlib 2 <pyramid>")
    text = xmp_of(path)
    for kept in (">Zoë Größer<", 'mine:box="12 &amp; 13"', "<xmp:Rating>4</xmp:Rating>"):
        assert kept in text
    assert "tiff:Orientation" not in text and "Scanner 3" not in text
    assert text.count("CreatorTool") == text.count("DigitalSourceType") == 1
    assert 'xmp:CreatorTool="colorlib 2 &lt;pyramid&gt;"' in text
    assert f'Iptc4xmpExt:DigitalSourceType="{MACHINE_COLORED}"' in text
    assert text.count('about="uuid:1"') == 2  # both speak of one photo
    # Colored again: one word on it, the last.
    photo = photos.load(path)
    photos.write(path, rgb, metadata=photo.metadata, made_by="colorlib 3")
    text = xmp_of(path)
    assert text.count("CreatorTool") == text.count("DigitalSourceType") == 1
    assert 'xmp:CreatorTool="colorlib 3"' in text and ">Zoë Größer<" in text
    # Without the mark the packet stays.
    photos.write(path, rgb, metadata=Metadata(xmp=XMP))
    assert 'xmp:CreatorTool="Scanner 3"' in xmp_of(path)


@pytest.mark.parametrize("suffix", EVERY)
def test_nothing_speaks_of_what_the_new_file_has_not(tmp_path, rgb, suffix):
    """Its pixels are sRGB, and a phone's video and gain map stay behind."""
    block = Image.Exif()
    block[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: 65535, ExifTags.Base.FNumber: 5.6}
    phone = XMP.replace(
        b' mine:box="',
        b' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"'
        b' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" mine:box="',
    ).replace(b"<xmp:Rating>", b"<hdrgm:Version>1.0</hdrgm:Version><xmp:Rating>")
    Image.fromarray(rgb).save(tmp_path / "phone.jpg", exif=block.tobytes(), xmp=phone, quality=95)
    photo = photos.load(tmp_path / "phone.jpg")
    path = tmp_path / f"photo.{suffix}"
    photos.write(path, photo.rgb, metadata=photo.metadata, made_by="a test")
    with Image.open(path) as image:
        found = image.getexif().get_ifd(ExifTags.IFD.Exif)
    assert found[ExifTags.Base.ColorSpace] == 1 and found[ExifTags.Base.FNumber] == 5.6
    assert "MotionPhoto" not in xmp_of(path) and "hdrgm:Version" not in xmp_of(path)
    assert "12 &amp; 13" in xmp_of(path) and "<xmp:Rating>4<" in xmp_of(path)


@pytest.mark.parametrize("suffix", EVERY)
def test_a_photo_without_metadata_says_who_made_its_colors(tmp_path, rgb, suffix):
    path = tmp_path / f"photo.{suffix}"
    photos.write(path, rgb, made_by="colorlib 2, preset paper")
    assert 'xmp:CreatorTool="colorlib 2, preset paper"' in xmp_of(path)
    with Image.open(path) as image:
        assert MACHINE_COLORED in str(image.getxmp() or xmp_of(path))


@pytest.mark.parametrize("suffix", EVERY)
def test_no_resolution_is_made_up(tmp_path, rgb, suffix):
    path = tmp_path / f"photo.{suffix}"
    photos.write(path, rgb)
    with Image.open(path) as image:
        assert "dpi" not in image.info or image.info["dpi"] == (1, 1)
        if suffix == "tif":
            assert image.tag_v2[296] == 1  # no unit
        else:
            assert not image.getexif()
    assert photos.load(path).metadata is None
    # With a date, but no resolution: EXIF's word for an unknown one is 72.
    photos.write(path, rgb, metadata=photos.Metadata(exif=exif()[6:]))
    with Image.open(path) as image:
        assert image.getexif()[ExifTags.Base.XResolution] == (1 if suffix == "tif" else 72)


def test_resolutions_of_every_kind_come_back(tmp_path, rgb):
    original = tmp_path / "original"
    for kind in ("JPEG", "PNG", "TIFF", "BMP"):
        Image.fromarray(rgb).save(original, kind, dpi=(300, 300))
        photo = photos.load(original)
        assert photo.metadata.dpi == pytest.approx((300, 300), abs=0.02)
        for suffix in EVERY:
            path = tmp_path / f"photo.{suffix}"
            photos.write(path, photo.rgb, metadata=photo.metadata)
            assert photos.load(path).metadata.dpi == pytest.approx((300, 300), abs=0.05)
        Image.fromarray(rgb).save(original, kind)
        found = photos.load(original).metadata
        assert not found or found.dpi is None or kind == "BMP"  # whose header has a number


@pytest.mark.parametrize("suffix", EVERY)
def test_damaged_metadata_spoils_no_photo(tmp_path, rgb, suffix):
    path, random = tmp_path / f"photo.{suffix}", np.random.default_rng(1)
    block = exif()[6:]
    damaged = [b"", b"II*\0", block[:20], b"Exif\0\0" + block[:60], b"garbage" * 9]
    for _ in range(20):
        bent = bytearray(block)
        for position in random.integers(0, len(bent), 4):
            bent[position] = random.integers(256)
        damaged.append(bytes(bent))
    for item in damaged:
        original = io.BytesIO()
        Image.fromarray(rgb).save(original, "JPEG" if suffix == "jpg" else "PNG", exif=item)
        photo = photos.load(original.getvalue())
        photos.write(path, photo.rgb, metadata=photo.metadata, made_by="colorlib 2")
        assert photos.load(path).rgb.shape == photo.rgb.shape
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><x>&a;</x>'
    deep = XMP.replace(b"Zo", b"<a>" * 5000 + b"</a>" * 5000 + b"Zo")
    for packet in (
        deep,
        b"<x:xmpmeta",
        b"\xff\xfe\0",
        bomb,
        b"<rdf/>",
        XMP[:300],
        "ünïcode".encode(),
    ):
        photos.write(path, rgb, metadata=Metadata(xmp=packet), made_by="colorlib 2")
        assert 'xmp:CreatorTool="colorlib 2"' in xmp_of(path)


def test_a_jpeg_has_no_room_for_a_large_packet_but_for_the_mark(tmp_path, rgb):
    large = XMP.replace(b"Rating>4", b"Rating>" + b"4" * 70_000)
    photos.write(tmp_path / "photo.jpg", rgb, metadata=Metadata(xmp=large), made_by="colorlib 2")
    assert MACHINE_COLORED in xmp_of(tmp_path / "photo.jpg")
    photos.write(tmp_path / "photo.png", rgb, metadata=Metadata(xmp=large), made_by="colorlib 2")
    assert "4" * 70_000 in xmp_of(tmp_path / "photo.png")


def test_metadata_can_go_to_another_process():
    import pickle

    photo = photos.load(CASES / "scan_600dpi_16bit.tif")
    assert pickle.loads(pickle.dumps(photo.metadata)) == photo.metadata
