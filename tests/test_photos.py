"""Photo files, each made or checked by another library than the one that reads them here."""

import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pandas as pd
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms, ImageOps
from skimage import io as skio

from colorlib import ASSETS, ColorlibError, lab, photos


def picture(height=48, width=72):
    """A smooth uint8 picture without symmetry, which JPEG keeps within a few codes."""
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    return np.uint8(np.stack([255 * y, 255 * x / x.max(), 120 + 80 * np.sin(5 * x + 3 * y)], -1))


def ramp():
    """All 65,536 values of each channel, in three orders."""
    values = np.arange(65536, dtype=np.uint16)
    return np.stack([values, values[::-1], values * 257], -1).reshape(256, 256, 3)


def png(width, height, depth, rows=b"", icc=None):
    """The bytes of an RGB PNG, straight from the specification."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    if icc:
        data = chunk(b"iCCP", b"profile\0\0" + zlib.compress(icc)) + data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data


def png16(array, icc=None):
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return png(width, height, 16, rows, icc)


def one_line(error):
    """The message of a raised ColorlibError, which must be a single line."""
    message = str(error.value)
    assert message and "\n" not in message
    return message


def difference(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


# What comes in


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_orientation_turns_the_picture_upright(tmp_path, suffix, orientation):
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture()).save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
        assert difference(photos.as_rgb(image), upright) <= 2
    assert photos.read(path).shape == upright.shape
    assert difference(photos.read(path), upright) <= 2


def profile(name):
    """One of the ICC profiles that libvips brings: data for the files below."""
    return bytes(pyvips.Image.profile_load(name))


def converted(image, icc):
    """The picture in sRGB by Pillow's LittleCMS: relative colorimetric, black point compensated."""
    return np.asarray(
        ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    )


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_a_wide_gamut_profile_is_converted_to_srgb(tmp_path, suffix):
    path, icc = tmp_path / f"photo.{suffix}", profile("p3")
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    Image.fromarray(picture()).save(path, icc_profile=icc, **options.get(suffix, {}))
    with Image.open(path) as image:
        assert difference(image, converted(image, icc)) > 20, "the profile must matter"
        assert difference(photos.read(path), converted(image, icc)) <= 3
        assert difference(photos.as_rgb(image), converted(image, icc)) <= 3


def test_a_wide_gamut_profile_is_converted_in_sixteen_bits(tmp_path):
    path, icc = tmp_path / "photo.png", profile("p3")
    path.write_bytes(png16(picture().astype(np.uint16) * 257, icc))
    rgb = photos.read(path)
    assert rgb.dtype == np.uint16
    assert difference(np.rint(rgb / 257), converted(Image.fromarray(picture()), icc)) <= 2


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_converted_by_its_profile(tmp_path, suffix):
    path, icc = tmp_path / f"photo.{suffix}", profile("cmyk")
    Image.fromarray(picture()).convert("CMYK").save(path, icc_profile=icc)
    with Image.open(path) as image:
        assert difference(photos.read(path), converted(image, icc)) <= 3


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_without_a_profile_looks_like_its_inks(tmp_path, suffix):
    inks = np.zeros((16, 96, 4), np.uint8)  # none, cyan, magenta, yellow, black, all
    for index, ink in enumerate([(), (0,), (1,), (2,), (3,), (0, 1, 2, 3)]):
        inks[:, 16 * index : 16 * (index + 1), list(ink)] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / f"photo.{suffix}", quality=100)
    none, cyan, magenta, yellow, black, every = np.int64(
        photos.read(tmp_path / f"photo.{suffix}")[8, 8::16]
    )
    assert none.min() >= 254
    assert cyan[2] > cyan[0] + 100 and magenta[0] > magenta[1] + 100
    assert yellow[0] > yellow[2] + 100
    assert black.max() < 70 and every.max() < 50


def test_a_palette_with_transparency_lies_on_white(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(picture()).quantize(32).save(path, transparency=5)
    with Image.open(path) as image:
        assert image.mode == "P"
        layers = image.convert("RGBA")
        expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layers)
        assert (np.asarray(layers)[..., 3] == 0).any()
        assert difference(photos.read(path), expected.convert("RGB")) <= 1
        assert difference(photos.as_rgb(image), expected.convert("RGB")) <= 1


def test_half_transparency_lies_on_white(tmp_path):
    path, rgb = tmp_path / "photo.png", picture()
    alpha = np.linspace(0, 255, rgb.shape[1]).astype(np.uint8) + np.zeros(rgb.shape[:2], np.uint8)
    rgba = np.dstack([rgb, alpha])
    Image.fromarray(rgba).save(path)
    share = alpha[..., None] / 255
    expected = np.rint(rgb * share + 255 * (1 - share))
    assert difference(photos.read(path), expected) <= 1
    assert difference(photos.as_rgb(rgba), expected) <= 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_gray_becomes_three_equal_channels(tmp_path, suffix):
    gray = picture()[..., 2]
    Image.fromarray(gray).save(tmp_path / f"photo.{suffix}", quality=100)
    with Image.open(tmp_path / f"photo.{suffix}") as image:
        decoded = np.asarray(image)
    rgb = photos.read(tmp_path / f"photo.{suffix}")
    assert rgb.dtype == np.uint8 and rgb.shape == (*gray.shape, 3)
    assert difference(rgb, decoded[..., None]) <= 1
    assert (rgb == rgb[..., :1]).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "avif", "jfif", "PNG"])
def test_other_formats_and_spellings(tmp_path, suffix):
    path = tmp_path / f"a photo [1], größer.{suffix}"
    kind = {"jfif": "JPEG"}.get(suffix, suffix.upper())
    Image.fromarray(picture()).save(path, format=kind, quality=100)
    assert photos.find(tmp_path) == [path]
    with Image.open(path) as image:
        # AVIF halves the color's resolution, and two decoders fill it in differently.
        assert difference(photos.read(path), image.convert("RGB")) <= (
            12 if suffix == "avif" else 3
        )


# 16 bits


def test_sixteen_bits_come_in_whole(tmp_path):
    (tmp_path / "photo.png").write_bytes(png16(ramp()))
    skio.imsave(tmp_path / "photo.tif", ramp(), check_contrast=False)
    skio.imsave(tmp_path / "gray.tif", ramp()[..., 2], check_contrast=False)
    for name in ("photo.png", "photo.tif"):
        rgb = photos.read(tmp_path / name)
        assert rgb.dtype == np.uint16
        assert (rgb == ramp()).all()
    assert (photos.read(tmp_path / "gray.tif") == ramp()[..., 2:]).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_survive_a_round_trip(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    photos.write(path, ramp())
    back = photos.read(path)
    assert back.dtype == np.uint16 and (back == ramp()).all()
    if suffix == "tif":
        with Image.open(path) as image:
            assert image.tag_v2[258] == (16, 16, 16)
    else:
        assert path.read_bytes()[24] == 16  # the header's bit depth


def primaries(icc):
    """The matrix from linear RGB to XYZ that stands in a profile, columns red, green, blue."""
    tags = ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile
    return np.transpose([getattr(tags, f"{name}_colorant")[0] for name in ("red", "green", "blue")])


def test_a_wide_gamut_profile_is_exact_in_sixteen_bits(tmp_path):
    # LittleCMS' shortcut for 16 bits is up to 14 8-bit codes off here.
    path = tmp_path / "photo.tif"
    wide = np.random.default_rng(1).integers(0, 65536, (200, 200, 3)).astype(np.uint16)
    tifffile.imwrite(path, wide, photometric="rgb", iccprofile=profile("p3"))
    # Both curves are sRGB's, IEC 61966-2-1.
    value = wide / 65535
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = linear @ (np.linalg.inv(primaries(profile("srgb"))) @ primaries(profile("p3"))).T
    linear = linear.clip(0, 1)
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(photos.read(path) / 257 - expected * 255).max() < 2


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_sixteen_bits_are_rounded_where_the_format_has_eight(tmp_path, suffix):
    for value, expected in [(0, 0), (128, 0), (129, 1), (25700 + 128, 100), (25700 + 129, 101),
                            (65535, 255)]:  # fmt: skip
        path = tmp_path / f"photo.{suffix}"
        photos.write(path, np.full((16, 16, 3), value, np.uint16), quality=100)
        with Image.open(path) as image:
            assert difference(image, expected) <= (suffix == "webp")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_what_is_written_is_read_elsewhere_with_its_colors(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    photos.write(path, picture(), quality=95)
    with Image.open(path) as image:
        assert difference(image.convert("RGB"), picture()) <= (0 if suffix in "png tif" else 8)
        # Other programs know what the numbers mean.
        described = ImageCms.getProfileDescription(io.BytesIO(image.info["icc_profile"]))
        assert "srgb" in described.lower()


# What must not come in


def truncated(tmp_path, suffix):
    path = tmp_path / f"whole.{suffix}"
    noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_truncated_file_is_an_error(tmp_path, suffix):
    path = truncated(tmp_path, suffix)
    with pytest.raises(ColorlibError, match="cut short") as error:
        photos.read(path)
    assert one_line(error).startswith(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a photo\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"P3 1 1 9 1 2 3",
    ],
    ids=["empty", "text", "svg", "ppm"],
)
def test_no_photo_whatever_its_name(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ColorlibError, match="not a photo") as error:
        photos.read(path)
    assert one_line(error).startswith(str(path))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ColorlibError, match="no such file") as error:
        photos.read(tmp_path / "missing.jpg")
    assert str(tmp_path / "missing.jpg") in one_line(error)
    with pytest.raises(ColorlibError, match="folder") as error:
        photos.read(tmp_path)
    one_line(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes there")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(ColorlibError, match="pipe") as error:
        photos.read(tmp_path / "photo.jpg")
    one_line(error)


@pytest.mark.parametrize("content", [b"garbage" * 50, profile("cmyk")], ids=["garbage", "cmyk"])
def test_an_unusable_profile_is_passed_over_and_blames_no_other_file(tmp_path, content):
    path, broken = tmp_path / "photo.tif", tmp_path / "broken.png"
    Image.fromarray(picture()).save(path, icc_profile=content)
    assert difference(photos.read(path), picture()) == 0
    broken.write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    with pytest.raises(ColorlibError) as error:
        photos.read(broken)
    assert "icc" not in one_line(error).lower()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs a list of open files")
def test_no_file_stays_open(tmp_path):
    # Windows replaces no file that is open.
    path = tmp_path / "photo.webp"
    Image.fromarray(np.dstack([picture(), picture()[..., 0]])).save(path)
    photos.read(path)
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    assert str(path) not in [os.readlink(link) for link in links if os.path.islink(link)]


def test_the_bound_on_pixels_holds_before_decoding(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png(60000, 60000, 8))  # ten gigabytes, of which the file has none
    with pytest.raises(ColorlibError, match="60000 x 60000") as error:
        photos.read(path)
    one_line(error)
    Image.fromarray(picture(20, 30)).save(path)
    assert photos.read(path, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ColorlibError, match="30 x 20"):
        photos.read(path, max_pixels=599)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.full((4, 4), 255.0),
        np.full((4, 4), np.nan),
        [[0, 1], [1, 0]],
    ],
    ids=["channels", "vector", "empty", "int64", "float 0..255", "nan", "list"],
)
def test_arrays_that_are_no_images(array):
    with pytest.raises(ColorlibError) as error:
        photos.as_rgb(array)
    one_line(error)


def test_arrays_of_every_kind_are_one_image():
    rgb, gray = picture(), picture()[..., 0]
    assert photos.as_rgb(rgb) is rgb
    for image in (gray, gray[..., None], gray / 255, np.float32(gray / 255), Image.fromarray(gray)):
        assert (photos.as_rgb(image) == gray[..., None]).all()
        assert photos.as_rgb(image).dtype == np.uint8
    big_endian = ramp().astype(">u2")
    assert photos.as_rgb(big_endian).dtype == np.uint16
    assert (photos.as_rgb(big_endian) == ramp()).all()
    assert (photos.as_rgb(Image.fromarray(ramp()[..., 0])) == ramp()[..., :1]).all()
    assert (photos.as_rgb(gray > 99) == 255 * (gray > 99)[..., None]).all()


# What goes out


def test_writing_fails_with_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "photo.webp").write_bytes(b"old")
    too_wide = np.zeros((1, 20000, 3), np.uint8)  # for WebP
    for name, rgb in [
        ("missing/photo.png", picture()),
        ("photo.bmp", picture()),
        ("photo", picture()),
        ("folder.png", picture()),
        ("photo.webp", too_wide),
    ]:
        with pytest.raises(ColorlibError) as error:
            photos.write(tmp_path / name, rgb)
        assert one_line(error).startswith(str(tmp_path / name))
    assert sorted(os.listdir(tmp_path)) == ["folder.png", "photo.webp"]
    assert (tmp_path / "photo.webp").read_bytes() == b"old"


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("dtype", "bound"), [(np.uint8, 0.5), (np.uint16, 0.01)])
def test_the_lightness_of_a_photo_survives_any_color(tmp_path, sample, suffix, dtype, bound):
    path, random = tmp_path / f"photo.{suffix}", np.random.default_rng(1)
    for source in sample[:3]:
        rgb = photos.read(source)[:200, :200]
        if dtype == np.uint16:
            rgb = rgb * np.uint16(257) - random.integers(0, 2, rgb.shape, np.uint16) * (rgb > 0)
        before = lab.lightness(rgb)
        ab = random.uniform(-100, 100, (*before.shape, 2)).astype(np.float32)
        photos.write(path, lab.recombine(before, ab, dtype))
        assert photos.read(path).dtype == dtype
        error = np.abs(lab.lightness(photos.read(path)) - before)
        assert np.percentile(error, 99.9) <= bound


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_full_disk_leaves_the_old_photo(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    path.write_bytes(b"old")
    code = f"""
import resource, numpy as np
from colorlib import ColorlibError, photos
noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    photos.write({str(path)!r}, noise)
except ColorlibError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(path)) and len(done.stdout.splitlines()) == 1
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


# Finding


def test_find_searches_folders_and_passes_hidden_files_by(tmp_path):
    for name in ("b.JPG", "a.png", "sub/deep/c.tiff", ".hidden.jpg", ".cache/d.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    expected = [tmp_path / name for name in ("a.png", "b.JPG", "sub/deep/c.tiff")]
    assert photos.find(tmp_path) == expected
    assert photos.find(str(tmp_path)) == expected
    assert photos.find([tmp_path / "b.JPG", tmp_path / "a.png"]) == expected[1::-1]


def test_find_says_where_there_is_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for source in (tmp_path, tmp_path / "missing", []):
        with pytest.raises(ColorlibError) as error:
            photos.find(source)
        one_line(error)


# The packaged photos


@pytest.mark.parametrize(("which", "count"), [("sample", 54), ("historical", 14)])
def test_packaged_photos_are_those_of_the_provenance(which, count):
    table = photos.packaged(which)
    assert len(table) == count == table["file"].nunique()
    assert {"file", "path", "kind", "author", "license", "truth"} <= set(table.columns)
    assert table[["title", "kind", "author", "license"]].astype(bool).all(axis=None)
    assert table["title"].is_unique
    provenance = pd.read_csv(ASSETS / which / "provenance.csv", index_col="file")
    for path in table["path"]:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == provenance.loc[path.name, "sha256"], path.name
    on_disk = {path.name for path in (ASSETS / which).iterdir()} - {"provenance.csv"}
    assert on_disk == set(table["file"])


def test_eight_historical_photos_have_their_true_colors():
    table = photos.packaged("historical")
    pairs = table[table["truth"].notna()]
    assert len(pairs) == 8
    assert set(pairs["kind"]) == {"made gray"}
    sample = photos.packaged("sample")
    assert sample["truth"].isna().all()
    others = sample[~sample["path"].isin(pairs["truth"])]
    assert len(sample) - len(others) == 8, "each of the sample"
    notebook = ASSETS.parents[1] / "notebooks" / "04_historical_photos.ipynb"
    page = notebook.read_text(encoding="utf-8")
    assert f"Eight of those {len(sample)} are the originals of photographs on this page" in page
    assert f"GALLERY = {others['kind'].nunique()} " in page
    for gray, truth in zip(pairs["path"], pairs["truth"], strict=True):
        with Image.open(gray) as made, Image.open(truth) as original:
            # One of the sample's was made smaller.
            made, luma = (image.convert("L").resize((90, 60)) for image in (made, original))
        made, luma = np.float64(made), np.float64(luma)
        assert np.corrcoef(made.ravel(), luma.ravel())[0, 1] > 0.98, gray.name


def test_historical_photos_are_named_and_credited():
    table = photos.packaged("historical")
    credits = (ASSETS / "CREDITS.md").read_text(encoding="utf-8")
    always = table[table["kind"] == "black and white"]
    assert len(always) == 4
    for row in always.itertuples():
        (line,) = [line for line in credits.splitlines() if f"historical/{row.file}" in line]
        assert row.title.partition(",")[0] in line and row.author in line


def test_an_unknown_set_is_an_error():
    with pytest.raises(ColorlibError, match="samples"):
        photos.packaged("samples")
