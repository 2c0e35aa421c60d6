"""A photo goes in and comes out at its own size and depth, with its own lightness."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from colorlib import Colorizer, ColorlibError, framing, lab, photos
from colorlib.framing import working_shapes
from colorlib.model import ab_bins


@pytest.fixture(scope="module")
def colorizer(colorizers, tiny_run):
    return colorizers(tiny_run)


@pytest.fixture
def vivid(colorizer):
    """It with a network that exaggerates: far more color than sRGB has room for."""
    last = colorizer.network.get_layer("decoder_5")
    kernel, bias = last.get_weights()
    last.set_weights([200 * kernel, 200 * bias])
    yield colorizer
    last.set_weights([kernel, bias])


def difference(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


def broken_copy(run, tmp_path):
    """A run folder of one's own, without the large state."""
    return shutil.copytree(run, tmp_path / "copy", ignore=lambda *_: ["state.npz", "logs"])


# In and out


@pytest.mark.parametrize("size", [(37, 51), (1, 1), (3, 2000), (2000, 3), (48, 48), (7, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_size_and_depth_are_those_of_the_photo(colorizer, sample, size, dtype):
    with Image.open(sample[3]) as image:
        rgb = np.asarray(image.convert("RGB").resize(size[::-1])).astype(dtype)
    rgb *= np.iinfo(dtype).max // 255
    output = colorizer.colorize(rgb)
    assert output.shape == (*size, 3) and output.dtype == dtype
    assert np.abs(rgb2lab(output) - rgb2lab(rgb))[..., 0].max() < 1


def test_every_kind_of_input_gives_the_same_photo(colorizer, tmp_path):
    y, x = np.mgrid[:60, :80]
    gray = np.uint8(2 * x + y)
    photos.write(tmp_path / "photo.png", np.dstack([gray] * 3))
    inputs = {
        "path": tmp_path / "photo.png",
        "text": str(tmp_path / "photo.png"),
        "rgb": np.dstack([gray] * 3),
        "gray": gray,
        "one channel": gray[..., None],
        "opaque": np.dstack([gray, gray, gray, np.full_like(gray, 255)]),
        "float64": gray / 255,
        "float32": np.float32(gray / 255),
        "PIL": Image.open(tmp_path / "photo.png"),
        "PIL gray": Image.fromarray(gray),
    }
    expected = colorizer.colorize(inputs["rgb"])
    assert expected.dtype == np.uint8 and difference(expected, inputs["rgb"]) > 0
    for name, image in inputs.items():
        assert difference(colorizer.colorize(image), expected) <= 1, name
    deep = colorizer.colorize(np.uint16(gray) * 257)
    assert deep.dtype == np.uint16
    assert difference(np.rint(deep / 257), expected) <= 1


def test_only_lightness_matters(colorizer, sample):
    rgb = photos.read(sample[3])[:200, :200]
    gray = lab.recombine(lab.lightness(rgb), np.zeros((200, 200, 2)))
    assert difference(rgb, gray) > 50
    # Rounding the gray to 8 bits moves L by a fraction of a unit.
    assert difference(colorizer.colorize(rgb), colorizer.colorize(gray)) <= 4


def test_a_batch_is_its_photos_one_by_one(colorizer, sample):
    images = [photos.read(path) for path in sample[:5]]
    images[1], images[3] = images[1][:100, :60], images[1][:60, :100]
    batch = colorizer.colorize_batch([*images, images[0]])
    for image, output in zip([*images, images[0]], batch, strict=True):
        assert output.shape == image.shape
        assert difference(colorizer.colorize(image), output) <= 1
    assert colorizer.colorize_batch([]) == []


def test_photos_of_all_shapes_go_through_a_handful_of_programs(colorizer):
    rng = np.random.default_rng(1)
    planes = [np.full(shape, 50.0, np.float32) for shape in rng.integers(20, 200, (40, 2))]
    for plane, ab in zip(planes, colorizer.predict_ab(planes), strict=True):
        assert ab.shape == (*plane.shape, 2)
    shapes = working_shapes(colorizer.working_size)
    assert {*colorizer._compiled} <= {*shapes} and len(shapes) <= 7


@pytest.mark.parametrize("shape", [(300, 400), (400, 600), (1920, 1080), (500, 500), (9, 2000)])
def test_a_photo_lies_whole_in_the_middle_of_its_working_shape(colorizer, shape):
    plane = np.random.default_rng(1).uniform(0, 100, shape).astype("float32")
    prepared = colorizer.prepare(plane)
    photo = prepared.crop(prepared.plane)
    resized = np.clip(photos.resize(plane, *photo.shape), 0, 100)
    np.testing.assert_array_equal(photo, resized)
    for side, before, length in zip(prepared.plane.shape, prepared[2:4], prepared[4:], strict=True):
        assert before % 4 == length % 4 == 0 and 0 <= side - length - 2 * before < 8
    if max(shape) < 2.8 * min(shape):  # longer ones become smaller than the working size
        assert min(photo.shape) > 0.9 * colorizer.working_size
        assert photo.shape[0] / photo.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.08)


def test_a_flat_surround_stays_gray_and_the_print_in_it_gets_color(colorizers):
    mount = Path(__file__).parent / "cases" / "print_on_grey_mount.jpg"
    rgb = colorizers("pyramid").colorize(mount)
    chroma = np.hypot(*np.moveaxis(rgb2lab(rgb)[..., 1:], -1, 0))
    assert max(part.max() for part in (chroma[:34], chroma[-34:], chroma[:, :34])) < 1
    assert chroma[60:230, 50:190].mean() > 8


def test_a_sky_that_ends_at_the_ground_is_no_surround():
    sky = np.full((40, 60), 80.0)
    assert framing.surround(sky).all()
    sky[-8:] = 30
    assert not framing.surround(sky).any()


def test_several_threads_may_use_one_colorizer(colorizer, sample):
    originals = [photos.read(path)[: 200 + 40 * i] for i, path in enumerate(sample[:6])]
    expected = [colorizer.colorize(rgb) for rgb in originals]
    with ThreadPoolExecutor(4) as pool:
        for output, alone in zip(pool.map(colorizer.colorize, originals), expected, strict=True):
            np.testing.assert_array_equal(output, alone)


def test_half_precision_is_close(tiny_run, colorizer, sample):
    half = Colorizer.from_preset(tiny_run, precision="mixed_bfloat16")
    planes = [lab.lightness(photos.read(path)) for path in sample[:3]]
    for single, double in zip(half.predict_ab(planes), colorizer.predict_ab(planes), strict=True):
        assert single.dtype == np.float32
        assert 0 < np.abs(single - double).max() < 2  # units of Lab


# Vividness


def test_vividness_adds_chroma_and_keeps_lightness(sample, colorizers):
    colorizer = colorizers("pyramid")
    paths = sample[:2]
    gray = [lab.lightness(photos.read(path)) for path in paths]
    chroma = []
    for vividness in (0, 0.5, 1):
        outputs = [rgb2lab(rgb) for rgb in colorizer.colorize_batch(paths, vividness)]
        chroma.append(np.mean([np.hypot(*np.moveaxis(x[..., 1:], -1, 0)).mean() for x in outputs]))
        for output, lightness in zip(outputs, gray, strict=True):
            assert np.percentile(np.abs(output[..., 0] - lightness), 99.9) < 0.5
    assert (np.diff(chroma) > 0).all() and chroma[-1] > 1.3 * chroma[0]
    default = colorizer.card["vividness"]
    assert 0 < default < 1
    assert difference(colorizer.colorize(paths[0]), colorizer.colorize(paths[0], default)) == 0


def test_a_distribution_is_what_the_colors_are_made_of(sample, colorizer, colorizers):
    pyramid = colorizers("pyramid")
    plane = lab.lightness(photos.read(sample[0]))[:224, :224]  # nothing is resized
    assert pyramid.working_size == 224
    shares = pyramid.distribution(plane)
    assert shares.shape == (56, 56, len(ab_bins())) and shares.min() >= 0
    np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=1e-5)
    (ab,) = pyramid.predict_ab([plane], vividness=0)
    expected = shares @ ab_bins()
    # Upsampled by four, then averaged over four by four, a smooth map is about itself.
    assert np.abs(ab.reshape(56, 4, 56, 4, 2).mean(axis=(1, 3)) - expected).mean() < 0.3
    with pytest.raises(ColorlibError, match="no vividness"):
        colorizer.distribution(plane)


def test_vividness_out_of_range_or_without_a_distribution(colorizer, colorizers, sample):
    with pytest.raises(ColorlibError, match="no vividness: leave it out"):
        colorizer.colorize(sample[0], vividness=0.5)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ColorlibError, match=f"in 0..1. Received: {wrong}"):
            colorizers("pyramid").colorize(sample[0], vividness=wrong)


# Lightness


def test_lightness_is_kept_under_exaggerated_color(vivid):
    paths = list(photos.packaged("sample")["path"][::18])
    for path in paths:
        rgb = photos.read(path)
        output = vivid.colorize(rgb)
        before, after = rgb2lab(rgb), rgb2lab(output)
        assert np.percentile(np.abs(after - before)[..., 0], 99.9) <= 0.5, path.name
        assert np.hypot(after[..., 1], after[..., 2]).mean() > 10, "no exaggeration"
    deep = vivid.colorize(np.uint16(rgb) * 257)
    assert np.abs(rgb2lab(deep) - before)[..., 0].max() < 0.1


def test_no_color_gives_gray():
    lightness = np.linspace(0, 100, 2000, dtype=np.float32).reshape(20, 100)
    for dtype in (np.uint8, np.uint16):
        output = lab.recombine(lightness, np.zeros((20, 100, 2), np.float32), dtype)
        assert output.dtype == dtype and output.shape == (20, 100, 3)
        # With the constants of the standard a neutral gray is not quite neutral.
        assert np.ptp(output.astype(int), axis=-1).max() <= (1 if dtype == np.uint8 else 16)
        assert output.min() == 0 and output.max() == np.iinfo(dtype).max


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_photo_taken_apart_and_put_together_is_itself(sample, dtype):
    rgb = photos.read(sample[2]).astype(dtype) * (np.iinfo(dtype).max // 255)
    output = lab.recombine(lab.lightness(rgb), rgb2lab(rgb)[..., 1:], dtype)
    assert difference(output, rgb) <= (1 if dtype == np.uint8 else 16)


# Presets


def test_unknown_presets_and_precisions(tmp_path):
    for name in ("mes", str(tmp_path), tmp_path / "missing"):
        with pytest.raises(ColorlibError, match="Unknown preset") as error:
            Colorizer.from_preset(name)
        assert "\n" not in str(error.value) and str(name) in str(error.value)
    with pytest.raises(ColorlibError, match="float16"):
        Colorizer.from_preset(precision="float16")


@pytest.mark.parametrize(
    "damage", ["half the weights", "text", "no JSON", "a list", "no embedding", "no size"]
)
def test_damaged_weights_or_card(tiny_run, tmp_path, damage):
    run = broken_copy(tiny_run, tmp_path)
    weights, card = run / "weights.weights.h5", run / "card.json"
    content = json.loads(card.read_text())
    if damage == "half the weights":
        weights.write_bytes(weights.read_bytes()[:10_000_000])
    elif damage == "text":
        weights.write_text("not weights")
    elif damage == "no JSON":
        card.write_text(card.read_text()[:100])
    elif damage == "a list":
        card.write_text("[]")
    elif damage == "no embedding":
        card.write_text(json.dumps({k: v for k, v in content.items() if k != "embedding"}))
    else:
        card.write_text(json.dumps({k: v for k, v in content.items() if k != "working_size"}))
    with pytest.raises(ColorlibError, match="damaged card") as error:
        Colorizer.from_preset(run)
    assert str(run) in str(error.value) and "\n" not in str(error.value)


def test_a_preset_wants_the_backbone_that_it_was_trained_with(tiny_run, tmp_path):
    run = broken_copy(tiny_run, tmp_path)
    card = json.loads((run / "card.json").read_text())
    card["embedding"]["weights_sha256"] = "0" * 64
    for own, advice in [(None, "use the colorlib that trained it"), ("/a.h5", "bring back /a.h5")]:
        card["config"]["backbone_weights"] = own
        (run / "card.json").write_text(json.dumps(card))
        message = f"other weights of EfficientNetLite2 than those found: {advice}"
        with pytest.raises(ColorlibError, match=message):
            Colorizer.from_preset(run)


def test_the_default_preset_colors_a_photo(sample):
    rgb = photos.read(sample[0])
    output = Colorizer.from_preset().colorize(rgb)
    assert output.shape == rgb.shape and output.dtype == np.uint8
    assert np.hypot(*np.moveaxis(rgb2lab(output)[..., 1:], -1, 0)).mean() > 2
