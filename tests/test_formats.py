"""What a file is by its content: formats, pages, channels, and JPEG without its end."""

import io
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from colorlib import ColorlibError, formats, photos

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def truth():
    """The picture of the lossless cases, as Pillow reads it."""
    with Image.open(CASES / "old_scan.bmp") as image:
        return np.asarray(image.convert("RGB"))


def one_line(error):
    message = str(error.value)
    assert message and "\n" not in message
    return message


# Formats


@pytest.mark.parametrize("name", ["old_scan.bmp", "archive.jp2"])
def test_what_libvips_lacks_is_read_by_content(tmp_path, truth, name):
    path = tmp_path / "photo.jpg"
    path.write_bytes((CASES / name).read_bytes())
    photo = photos.load(path)
    assert (photo.rgb == truth).all() and photo.notes == () and photo.pages == 1
    assert (photos.load(path.read_bytes()).rgb == truth).all()
    with pytest.raises(ColorlibError, match="160 x 208"):
        photos.load(path, max_pixels=160 * 208 - 1)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ColorlibError, match="cut short") as error:
        photos.load(path)
    assert one_line(error).startswith(str(path))


def test_heic_is_read_where_its_extra_is_installed(truth):
    path = CASES / "IMG_0001.HEIC"
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        with pytest.raises(ColorlibError, match=r"HEIC.*colorlib\[heic\]") as error:
            photos.load(path)
        one_line(error)
    else:
        assert np.abs(photos.load(path).rgb.astype(int) - truth).mean() < 3


def test_a_photo_whose_depth_is_not_kept_says_so(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pip install -e '.[heic]'")
    deep = np.full((64, 64, 3), 30000, np.uint16)
    heif.from_bytes(mode="RGB;16", size=(64, 64), data=deep.tobytes()).save(tmp_path / "10.heic")
    photo = photos.load(tmp_path / "10.heic")
    assert photo.rgb.dtype == np.uint8
    assert photo.notes == ("10 bits a channel, of which 8 are read; a TIFF or PNG keeps 16",)
    assert not photos.load(CASES / "IMG_0001.HEIC").notes


def test_the_depth_of_jpeg_2000():
    """By its marker SIZ (ITU-T T.800, A.5.1)."""
    head = (CASES / "archive.jp2").read_bytes()
    assert formats.jp2_depth(head) == 8
    place = head.index(b"\xff\x4f\xff\x51") + 42
    assert formats.jp2_depth(head[:place] + b"\x0f" + head[place + 1 :]) == 16
    assert formats.jp2_depth(head[:place]) == formats.jp2_depth(b"") == 8


def test_the_profile_of_jpeg_2000_is_applied(tmp_path):
    colors = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).save(buffer, "JPEG2000", irreversible=False)
    data, profile = buffer.getvalue(), bytes(pyvips.Image.profile_load("p3"))
    # The box of 15 bytes that says sRGB gives way to one with a profile.
    start, outer = data.index(b"colr") - 4, data.index(b"jp2h") - 4
    assert data[start : start + 4] == (15).to_bytes(4, "big")
    box = (11 + len(profile)).to_bytes(4, "big") + b"colr\2\0\0" + profile
    size = int.from_bytes(data[outer : outer + 4], "big") + len(box) - 15
    data = (
        data[:outer] + size.to_bytes(4, "big") + data[outer + 4 : start] + box + data[start + 15 :]
    )
    tifffile.imwrite(tmp_path / "same.tif", colors, photometric="rgb", iccprofile=profile)
    expected = photos.read(tmp_path / "same.tif")
    assert np.abs(expected.astype(int) - colors).max() > 10
    assert (photos.load(data).rgb == expected).all()


def raw(file):
    """A raw file as cameras make them: a thumbnail, with the raw pixels below it."""
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=1)
        tiff.write(np.zeros((64, 64), np.uint16), photometric="cfa", extratags=[
            (33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True),
        ])  # fmt: skip


def test_formats_that_cannot_be_read_are_named(tmp_path):
    raw(tmp_path / "made.nef")
    contents = {
        "a JPEG XL picture": (CASES / "new.jxl").read_bytes(),
        "a camera's raw file": (tmp_path / "made.nef").read_bytes(),
        "a camera's raw file, which can't be read": b"FUJIFILMCCD-RAW 0201",
        "a Photoshop document": b"8BPS\0\1",
        "a PDF document": b"%PDF-1.7",
        "a Lab picture": (CASES / "valid_cielab.tif").read_bytes(),
    }
    for what, content in contents.items():
        path = tmp_path / "photo.jpg"
        path.write_bytes(content)
        with pytest.raises(ColorlibError, match=what) as error:
            photos.read(path)
        assert one_line(error).startswith(str(path)) and "cut short" not in one_line(error)


def test_a_jpeg_of_twelve_bits_is_named():
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "JPEG")
    data = buffer.getvalue()
    frame = data.index(b"\xff\xc0")
    with pytest.raises(ColorlibError, match="12-bit JPEG") as error:
        photos.load(data[: frame + 4] + b"\x0c" + data[frame + 5 :])
    assert "cut short" not in one_line(error)


def test_find_names_what_may_be_a_photo(tmp_path):
    found = ["a.heic", "b.HEIF", "c.bmp", "d.jp2", "e.jxl", "f.NEF", "g.dng", "photo"]
    for name in (*found, "text", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes((CASES / "photo_without_suffix").read_bytes())
    (tmp_path / "text").write_text("BM begins this text, which is no picture")
    (tmp_path / "folder").mkdir()
    assert [path.name for path in photos.find(tmp_path)] == found
    assert photos.find(tmp_path / "photo") == [tmp_path / "photo"]


# TIFF


def test_a_scanners_infrared_is_left_out(truth):
    path = CASES / "scanner_rgb_infrared_16bit.tif"
    photo = photos.load(path)
    assert (photo.rgb == tifffile.imread(path)[..., :3]).all()
    assert (photos.to_uint8(photo.rgb) == truth).all()
    (note,) = photo.notes
    assert "infrared" in note
    with pytest.warns(UserWarning, match="infrared") as caught:
        photos.read(path)
    assert str(path) in str(caught[0].message)


def test_of_several_channels_the_declared_one_is_alpha(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    alpha, infrared = np.full((9, 7), 128, np.uint8), np.full((9, 7), 250, np.uint8)
    half = np.rint(rgb * (128 / 255) + 255 * (127 / 255))
    for channels, kinds, expected in [
        ((alpha,), (2,), half),
        ((infrared, alpha), (0, 2), half),
        ((alpha, infrared), (2, 0), half),
        ((infrared,), (0,), rgb),
        ((infrared, infrared), (0, 0), rgb),
    ]:
        path = tmp_path / "photo.tif"
        data = np.dstack([rgb, *channels])
        tifffile.imwrite(path, data, photometric="rgb", extrasamples=kinds)
        photo = photos.load(path)
        assert np.abs(photo.rgb - expected).max() <= 1
        assert len(photo.notes) == (0 in kinds)


def test_a_reduced_page_is_never_taken_for_the_photo(tmp_path, truth):
    photo = photos.load(CASES / "thumbnail_is_first_page.tif")
    assert (photo.rgb == truth).all() and photo.pages == 1 and photo.notes == ()
    # A pyramid, and a mask at the end.
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as tiff:
        for step, kind in [(1, 0), (2, 1), (4, 1)]:
            tiff.write(truth[::step, ::step], photometric="rgb", subfiletype=kind)
        tiff.write(truth[..., 0] > 99, photometric="minisblack", subfiletype=4)
    photo = photos.load(tmp_path / "pyramid.tif")
    assert (photo.rgb == truth).all() and photo.pages == 1
    # The photo below its thumbnail, where libvips does not look.
    with tifffile.TiffWriter(tmp_path / "below.tif") as tiff:
        tiff.write(truth[::8, ::8], photometric="rgb", subfiletype=1, subifds=1)
        tiff.write(truth, photometric="rgb")
    with pytest.raises(ColorlibError, match="below a reduced picture") as error:
        photos.load(tmp_path / "below.tif")
    one_line(error)


def test_pages(truth):
    path = CASES / "album_of_three_pages.tif"
    photo = photos.load(path)
    assert (photo.rgb == truth).all() and photo.pages == 3
    assert photo.notes == ("page 1 of 3; the others are left out",)
    for page in range(3):
        photo = photos.load(path, page=page)
        assert (photo.rgb == tifffile.imread(path, key=page)[..., None]).all()
        assert photo.pages == 3 and photo.notes == ()
    for wrong in (3, -1):
        with pytest.raises(ColorlibError, match=f"no page {wrong}") as error:
            photos.load(path, page=wrong)
        one_line(error)
    with pytest.raises(ColorlibError, match="no page 1"):
        photos.load(CASES / "old_scan.bmp", page=1)


def test_the_frames_of_an_animation_are_no_pages(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (10, 90, 200)]
    frames[0].save(tmp_path / "photo.gif", save_all=True, append_images=frames[1:])
    photo = photos.load(tmp_path / "photo.gif")
    assert photo.pages == 1 and photo.notes == ("frame 1 of 3; the others are left out",)
    assert (photo.rgb == 10).all()


def test_float_tiff(tmp_path, truth):
    rgb = photos.read(CASES / "float32_0_to_1.tif")
    assert rgb.dtype == np.uint16
    assert (rgb == np.rint(tifffile.imread(CASES / "float32_0_to_1.tif") * 65535)[..., None]).all()
    assert (photos.to_uint8(rgb) == truth).all()
    path, color = tmp_path / "photo.tif", np.random.default_rng(1).random((8, 9, 3), np.float32)
    for kind in (np.float32, np.float16):
        tifffile.imwrite(path, color.astype(kind), photometric="rgb")
        expected = np.rint(color.astype(kind).astype(np.float64) * 65535)
        assert np.abs(photos.read(path) - expected).max() <= 1
    for values, message in [(color * 255, "from 1.* to 25"), (color * np.nan, "nan")]:
        tifffile.imwrite(path, values, photometric="rgb")
        with pytest.raises(ColorlibError, match=f"{message}.*must be in 0..1") as error:
            photos.read(path)
        assert one_line(error).startswith(str(path))


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint32", "uint64", "float64"])
def test_other_numbers_are_named(tmp_path, kind):
    path = tmp_path / "photo.tif"
    tifffile.imwrite(path, np.ones((8, 8), kind), photometric="minisblack")
    bits = np.dtype(kind).itemsize * 8
    with pytest.raises(ColorlibError, match=f"{bits}-bit .*pixels.*8- or 16-bit") as error:
        photos.read(path)
    assert "cut short" not in one_line(error)


def test_one_bit_and_palettes(tmp_path):
    bits = np.random.default_rng(1).integers(0, 2, (16, 24)).astype(bool)
    Image.fromarray(bits).save(tmp_path / "bits.tif", compression="group4")
    assert (photos.read(tmp_path / "bits.tif") == bits[..., None] * 255).all()
    with Image.fromarray(np.uint8(bits) * 77).quantize(2) as image:
        image.save(tmp_path / "palette.tif")
        expected = np.asarray(image.convert("RGB"))
    assert (photos.read(tmp_path / "palette.tif") == expected).all()


def test_a_damaged_header_is_left_to_libvips(tmp_path):
    # Whatever the header became: a picture or one line.
    data = (CASES / "scanner_rgb_infrared_16bit.tif").read_bytes()
    start, random = int.from_bytes(data[4:8], "little"), np.random.default_rng(1)
    for _ in range(300):
        broken = bytearray(data)
        for position in random.integers(start, min(start + 300, len(data)), 3):
            broken[position] = random.integers(256)
        try:
            assert photos.load(bytes(broken)).rgb.ndim == 3
        except ColorlibError as error:
            assert "\n" not in str(error)
    # A directory that is its own successor.
    looped = bytearray(data)
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    looped[end : end + 4] = data[4:8]
    assert photos.load(bytes(looped)).rgb.shape == (208, 160, 3)


# JPEG without its end


def test_only_the_end_marker_is_missing(truth):
    data = (CASES / "only_the_end_marker_is_missing.jpg").read_bytes()
    with Image.open(io.BytesIO(data + b"\xff\xd9")) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)
    photo = photos.load(data)
    assert photo.notes == ("the end marker is missing; all pixels are there",)
    assert np.abs(photo.rgb - expected).max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 2},
        {"progressive": True},
        {"subsampling": 0, "restart_marker_blocks": 3},
    ],
    ids=["4:4:4", "4:2:0", "progressive", "restarts"],
)
def test_a_jpeg_that_lacks_pixels_never_passes(sample, options):
    buffer = io.BytesIO()
    with Image.open(sample[0]) as image:
        image.resize((67, 41)).save(buffer, "JPEG", quality=90, **options)
    data = buffer.getvalue()
    whole, passed = photos.load(data).rgb, []
    for cut in (*range(1, 120), *range(120, len(data), 37)):
        try:
            rgb = photos.load(data[:-cut]).rgb
        except ColorlibError as error:
            assert "\n" not in str(error)
        else:
            assert (rgb == whole).all(), cut
            passed.append(cut)
    assert passed == [1, 2]


def test_a_progressive_jpeg_without_its_last_scan_is_refused(sample):
    # It decodes without a warning, at less quality.
    buffer = io.BytesIO()
    with Image.open(sample[0]) as image:
        image.resize((67, 41)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert formats.jpeg_has_all_scans(data)
    short = data[: data.rindex(b"\xff\xda")]
    assert not formats.jpeg_has_all_scans(short)
    with pytest.raises(ColorlibError, match="cut short"):
        photos.load(short)
