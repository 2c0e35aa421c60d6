"""Lab agrees with scikit-image, under any precision, and colors fit into sRGB without harm."""

import keras
import numpy as np
import pytest
import pyvips
from keras import ops
from skimage import color
from skimage.color.colorconv import rgb_from_xyz

from colorlib import lab
from colorlib.photos import read

# Arrays are converted by NumPy whatever the backend is: what gives it tensors is marked.


@pytest.fixture
def mixed_bfloat16():
    """The global policy under which half-precision Lab would be off by four units."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="module")
def million():
    """A million random colors, scikit-image's Lab of them in double precision, and its way back."""
    rgb = np.random.default_rng(1).random((1000, 1000, 3))
    expected = color.rgb2lab(rgb)
    return rgb, expected, color.lab2rgb(expected)


class ToLab(keras.layers.Layer):
    def call(self, rgb):
        return lab.rgb_to_lab(rgb)


class ToRGB(keras.layers.Layer):
    def call(self, x):
        return lab.lab_to_rgb(x)


def compiled(layer, x):
    """What a layer gives inside a compiled model; float32, as every layer around Lab must be."""
    inputs = keras.Input((None, 3), dtype="float32")
    model = keras.Model(inputs, layer(dtype="float32")(inputs))
    return model.predict_on_batch(np.asarray(x, "float32"))


def both_ways(to_lab, to_rgb, rgb, expected, back):
    """Asserts the agreement that the module promises: 1e-3 of Lab, 1e-4 of full scale."""
    result = ops.convert_to_numpy(to_lab(rgb))
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() < 1e-3
    # scikit-image and the colors that the Lab came from: two independent answers.
    result = ops.convert_to_numpy(to_rgb(expected))
    assert result.dtype == np.float32
    assert np.abs(result - back).max() < 1e-4
    assert np.abs(result - rgb).max() < 1e-4


def test_agrees_with_scikit_image_on_a_million_colors(million):
    both_ways(lab.rgb_to_lab, lab.lab_to_rgb, *million)


@pytest.mark.backend
def test_agrees_inside_a_compiled_model(million):
    both_ways(lambda x: compiled(ToLab, x), lambda x: compiled(ToRGB, x), *million)


@pytest.mark.backend
def test_agrees_under_mixed_bfloat16(mixed_bfloat16, million):
    assert keras.config.dtype_policy().compute_dtype == "bfloat16"
    both_ways(lab.rgb_to_lab, lab.lab_to_rgb, *million)
    both_ways(lambda x: compiled(ToLab, x), lambda x: compiled(ToRGB, x), *million)


@pytest.mark.backend
def test_agrees_in_a_training_step_under_mixed_bfloat16(mixed_bfloat16):
    class Step(keras.Model):
        """Its loss is the mean L of the batch: what the step computes is seen from outside."""

        def __init__(self):
            super().__init__(dtype="float32")
            self.gain = self.add_weight(shape=(), initializer="ones")

        def call(self, rgb):
            return lab.rgb_to_lab(rgb)[..., 0] * self.gain

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.mean(y_pred)

    rgb = np.random.default_rng(2).random((4, 16, 16, 3)).astype("float32")
    model = Step()
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    loss = model.train_on_batch(rgb)
    assert loss == pytest.approx(color.rgb2lab(rgb)[..., 0].mean(), abs=1e-3)


def test_constants_of_the_standard():
    corners = {
        (1, 1, 1): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
        # CIE Lab of the sRGB primaries, D65, as Lindbloom's calculator gives them.
        (1, 0, 0): (53.24, 80.09, 67.20),
        (0, 1, 0): (87.73, -86.18, 83.18),
        (0, 0, 1): (32.30, 79.19, -107.86),
    }
    result = ops.convert_to_numpy(lab.rgb_to_lab(np.array(list(corners), "float32")))
    np.testing.assert_allclose(result, list(corners.values()), atol=0.02)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_takes_any_float_type(dtype):
    rgb = np.array([[0.25, 0.5, 0.75]], dtype)
    result = ops.convert_to_numpy(lab.rgb_to_lab(rgb))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, color.rgb2lab(rgb.astype("float64")), atol=1e-3)


def test_refuses_what_has_no_three_channels():
    with pytest.raises(ValueError, match=r"3 channels.*\(4, 2\)"):
        lab.rgb_to_lab(np.zeros((4, 2)))


def extremes():
    """Every combination of L and ab at, beyond and just inside their ends."""
    lightness = [-5, -1e-6, 0, 1e-30, 1e-6, 0.01, 8, 50, 99.99, 100, 100.0001, 105]
    ab = [-128, -127, -100, -1, -1e-30, 0, 1e-6, 1, 60, 127, 128]
    return np.stack(np.meshgrid(lightness, ab, ab), axis=-1).reshape(-1, 3)


@pytest.mark.backend
@pytest.mark.parametrize("function", [lab.rgb_to_lab, lab.lab_to_rgb, lab.fit_gamut, lab.l_to_gray])
def test_an_array_gives_an_array_and_a_tensor_the_same_as_a_tensor(function):
    rng = np.random.default_rng(3)
    x = np.float32([100, 60, 60]) * rng.uniform([0, -1, -1], 1, (20_000, 3)).astype("float32")
    if function is lab.rgb_to_lab:
        x = rng.uniform(0, 1, (20_000, 3)).astype("float32")
    array, tensor = function(x), function(ops.convert_to_tensor(x))
    assert isinstance(array, np.ndarray) and ops.is_tensor(tensor)
    tensor = ops.convert_to_numpy(tensor)
    assert array.dtype == tensor.dtype
    # At the border of sRGB the last bit decides: few colors may fall on the other side.
    differ = np.abs(array * 1.0 - tensor) > 1e-3
    assert differ.mean() < 1e-3


def test_the_gray_of_an_l_is_scikit_images():
    lightness = np.linspace(0, 100, 1001).astype("float32")
    expected = color.lab2rgb(np.stack([lightness, 0 * lightness, 0 * lightness], axis=-1))
    np.testing.assert_allclose(lab.l_to_gray(lightness), expected.mean(axis=-1), atol=2e-4)


@pytest.mark.backend
def test_never_nan():
    tiny = [-0.1, -1e-30, 0.0, 1e-38, 1e-10, 0.0031308, 0.04045, 0.5, 1.0, 1.0001, 1.5]
    arrays = np.stack(np.meshgrid(tiny, tiny, tiny), axis=-1), extremes()
    tensors = [ops.convert_to_tensor(x, "float32") for x in arrays]
    for rgb, x in (arrays, tensors):
        for result in (
            lab.rgb_to_lab(rgb),
            lab.rgb_to_lab(rgb * 0),
            lab.lab_to_rgb(x),
            lab.fit_gamut(x),
            lab.lab_to_rgb(lab.fit_gamut(x)),
        ):
            assert np.isfinite(ops.convert_to_numpy(result)).all()


def test_the_networks_scaling_and_its_inverse():
    lightness = np.array([0.0, 50.0, 100.0], "float32")
    np.testing.assert_allclose(lab.scale_l(lightness), [-1, 0, 1])
    np.testing.assert_allclose(lab.unscale_l(lab.scale_l(lightness)), lightness)
    ab = np.array([-127.0, -63.5, 0.0, 127.0], "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(lab.scale_ab(ab)), [-1, -0.5, 0, 1])
    np.testing.assert_allclose(ops.convert_to_numpy(lab.unscale_ab(lab.scale_ab(ab))), ab)


def test_ab_is_clipped_to_what_eight_bits_hold():
    far = np.array([-500.0, -128.0, 128.0, 500.0], "float32")
    expected = [-128, -128, 127, 127]
    np.testing.assert_allclose(ops.convert_to_numpy(lab.scale_ab(far)) * 127, expected)
    np.testing.assert_allclose(ops.convert_to_numpy(lab.unscale_ab(far / 100)), expected)
    fitted = ops.convert_to_numpy(lab.fit_gamut(np.array([[50.0, 500, -500], [50, 127, -128]])))
    np.testing.assert_allclose(fitted[0], fitted[1])


# Fitting into the gamut


def linear_rgb(colors):
    """Linear sRGB of Lab, unclipped, in double precision: CIE 15 and scikit-image's matrix."""
    f_y = (colors[..., 0] + 16) / 116
    f = np.stack([f_y + colors[..., 1] / 500, f_y, f_y - colors[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return xyz * [0.95047, 1.0, 1.08883] @ rgb_from_xyz.T


def fits(colors, tolerance=1e-4):
    rgb = linear_rgb(colors)
    return (rgb.min(-1) >= -tolerance) & (rgb.max(-1) <= 1 + tolerance)


@pytest.fixture(scope="module")
def wanted():
    """Colors as a network may ask for them, most of them beyond sRGB."""
    rng = np.random.default_rng(3)
    lightness = rng.uniform(0, 100, 2000)
    return np.column_stack([lightness, rng.uniform(-128, 127, (2000, 2))]).astype("float32")


@pytest.mark.backend
def test_fitted_colors_lie_in_srgb_at_the_same_lightness_and_hue(wanted):
    fitted = ops.convert_to_numpy(lab.fit_gamut(ops.convert_to_tensor(wanted)))
    assert fits(wanted).mean() < 0.5 and fits(fitted, 1.1e-4).all()
    np.testing.assert_array_equal(fitted[:, 0], wanted[:, 0])
    chroma, before = (np.hypot(*x[:, 1:].T.astype("float64")) for x in (fitted, wanted))
    assert (chroma <= before * (1 + 1e-6)).all()
    # The same direction, where there is color left to have one.
    cosine = (fitted[:, 1:] * wanted[:, 1:]).sum(-1) / np.maximum(chroma * before, 1e-9)
    assert cosine[chroma > 0.01].min() > 1 - 1e-6


def test_chroma_is_not_reduced_more_than_needed(wanted):
    fitted = ops.convert_to_numpy(lab.fit_gamut(wanted))
    kept = np.hypot(*fitted[:, 1:].T) / np.hypot(*wanted[:, 1:].T)
    # The independent answer: of 4096 steps from gray to the color, the last that lies in sRGB.
    steps = np.linspace(0, 1, 4097)
    possible = np.empty(len(wanted))
    for index, (lightness, *ab) in enumerate(wanted.astype("float64")):
        ray = np.column_stack([np.full(len(steps), lightness), np.outer(steps, ab)])
        possible[index] = steps[fits(ray)].max()
    # Both stop within 1/4096. In bright yellow a ray can leave sRGB and come back: not so there.
    off = np.abs(kept - possible) > 1.5 / 4096
    assert off.mean() <= 0.001 and (wanted[off, 0] > 90).all()


def test_colors_in_srgb_are_left_alone(million):
    inside = million[1][::10].astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(lab.fit_gamut(inside)), inside)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_photo_keeps_its_lightness_whatever_color_it_gets(dtype):
    rng = np.random.default_rng(4)
    lightness = rng.uniform(0, 100, (300, 300)).astype("float32")
    ab = rng.choice([-128.0, -100, -50, 0, 50, 100, 127], (300, 300, 2))
    rgb = lab.recombine(lightness, ab, dtype)
    assert rgb.dtype == dtype
    error = np.abs(color.rgb2lab(rgb / np.iinfo(dtype).max)[..., 0] - lightness)
    assert np.percentile(error, 99.9) <= 0.5


@pytest.mark.parametrize("emulsion", [(0.2126, 0.7152, 0.0722), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0)])
def test_film_grays_are_those_of_linear_light(emulsion):
    rgb = np.random.default_rng(0).uniform(0, 1, (50, 3)).astype("float32")
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    light = np.repeat(linear @ emulsion, 3).reshape(-1, 3)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    expected = color.rgb2lab(encoded)[:, :1]
    output = lab.lightness_of_film(rgb, np.float32(emulsion))
    np.testing.assert_allclose(output, expected, atol=2e-3)


def test_a_gray_photo_is_that_of_a_films_sensitivities(sample):
    rgb = read(sample[0])
    neutral = np.repeat(lab.gray(rgb)[..., None], 3, axis=2)
    assert np.abs(color.rgb2lab(rgb)[..., 0] - color.rgb2lab(neutral)[..., 0]).max() < 0.6
    linear = pyvips.Image.new_from_array(rgb).copy(interpretation="srgb").colourspace("scrgb")
    reference = linear.recomb([[0, 0.5, 0.5]] * 3).colourspace("b-w").numpy().squeeze()
    assert np.abs(lab.gray(rgb, (0, 0.5, 0.5)) - reference.astype(float)).max() <= 1
    reds = np.array([[[0, 0, 0], [255, 0, 0], [255, 255, 255], [77, 77, 77]]], np.uint8)
    assert lab.gray(reds, (0, 1, 1)).tolist() == [[0, 0, 255, 77]]
    assert lab.gray(reds).dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_lightness_of_integers_is_that_of_lab(dtype):
    rgb = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (300, 400, 3), dtype, True)
    expected = color.rgb2lab(rgb / np.float64(np.iinfo(dtype).max))[..., 0]
    np.testing.assert_allclose(lab.lightness(rgb), expected, atol=2e-4)


def test_every_8_bit_gray_comes_back_as_it_was():
    gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    output = lab.recombine(lab.lightness(gray), np.zeros((16, 16, 2)))
    np.testing.assert_array_equal(output, gray)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_and_white_take_no_color_and_no_time(dtype, monkeypatch):
    page = np.zeros((40, 60, 3), dtype)
    page[:30] = np.iinfo(dtype).max
    fitted = []
    monkeypatch.setattr(
        lab, "fit_gamut", lambda colors, **options: fitted.append(len(colors)) or colors
    )
    ab = np.random.default_rng(0).normal(0, 40, (40, 60, 2))
    np.testing.assert_array_equal(lab.recombine(lab.lightness(page), ab, dtype), page)
    assert sum(fitted) == 0
