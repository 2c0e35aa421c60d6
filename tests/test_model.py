"""One network is the paper's, layer for layer; the other fuses features at every scale."""

import itertools
import textwrap

import keras
import numpy as np
import pytest
from keras import ops
from skimage.color import rgb2lab

from colorlib import ColorlibError, lab
from colorlib.embedding import shared_embedder, start_body
from colorlib.model import (
    ARCHITECTURES,
    CropLike,
    PadToStride,
    ab_bins,
    cross_entropy_on_bins,
    get_architecture,
    mean_of_bins,
    paper_network,
    pyramid_network,
    soft_targets,
)
from colorlib.presets import shrink_weights

pytestmark = pytest.mark.backend


def inputs(batch=2, height=24, width=16, size=1000, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "l": rng.uniform(-1, 1, (batch, height, width, 1)).astype("float32"),
        "embedding": rng.normal(size=(batch, size)).astype("float32"),
    }


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    return paper_network()


# The paper's table 1: part, filters, kernel, strides, activation; "x2" is an upsampling.
PAPER = [
    ("encoder", 64, 3, 2, "relu"),
    ("encoder", 128, 3, 1, "relu"),
    ("encoder", 128, 3, 2, "relu"),
    ("encoder", 256, 3, 1, "relu"),
    ("encoder", 256, 3, 2, "relu"),
    ("encoder", 512, 3, 1, "relu"),
    ("encoder", 512, 3, 1, "relu"),
    ("encoder", 256, 3, 1, "relu"),
    ("fusion", 256, 1, 1, "relu"),
    ("decoder", 128, 3, 1, "relu"),
    "x2",
    ("decoder", 64, 3, 1, "relu"),
    ("decoder", 64, 3, 1, "relu"),
    "x2",
    ("decoder", 32, 3, 1, "relu"),
    ("decoder", 2, 3, 1, "tanh"),
    "x2",
]


def test_layers_are_those_of_the_paper(network):
    table = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.UpSampling2D):
            assert layer.size == (2, 2)
            table.append("x2")
        elif layer.weights:
            assert isinstance(layer, keras.layers.Conv2D)
            assert layer.padding == "same" and layer.use_bias
            (kernel, same_kernel), (strides, same_strides) = layer.kernel_size, layer.strides
            assert (kernel, strides) == (same_kernel, same_strides)
            part, activation = layer.name.split("_")[0], layer.activation.__name__
            table.append((part, layer.filters, kernel, strides, activation))
    assert table == PAPER


@pytest.mark.parametrize(
    ("size", "fusion", "total"), [(1000, 321_792, 6_573_794), (1001, 322_048, 6_574_050)]
)
def test_parameters_are_those_of_the_paper(size, fusion, total):
    network = paper_network(size)
    parts = {"encoder": 0, "fusion": 0, "decoder": 0}
    for layer in network.layers:
        if layer.weights:
            parts[layer.name.split("_")[0]] += layer.count_params()
    assert parts == {"encoder": 5_827_200, "fusion": fusion, "decoder": 424_802}
    assert network.count_params() == total


def test_fusion_puts_the_embedding_at_every_place():
    rng = np.random.default_rng(0)
    network, vector = paper_network(6), rng.random((2, 6), "float32")
    layers = [network.get_layer(name).output for name in ("encoder_8", "fusion_stack")]
    features, fused = keras.Model(network.input, layers).predict_on_batch(
        {"l": rng.random((2, 24, 32, 1), "float32"), "embedding": vector}
    )
    assert fused.shape == (2, 3, 4, 262)
    np.testing.assert_array_equal(fused[..., :256], features)
    for row in range(3):
        for column in range(4):
            np.testing.assert_array_equal(fused[:, row, column, 256:], vector)


def test_the_embedding_changes_the_whole_picture(network):
    photo = inputs(1)
    other = {**photo, "embedding": inputs(1, seed=1)["embedding"]}
    change = network.predict_on_batch(photo) - network.predict_on_batch(other)
    assert (np.abs(change).max(axis=-1) > 0).mean() > 0.99


@pytest.mark.parametrize("size", [1, 1536])
def test_takes_an_embedding_of_any_size(size):
    assert paper_network(size)(inputs(size=size)).shape == (2, 24, 16, 2)


@pytest.mark.slow
def test_its_example_runs_as_it_stands():
    example = textwrap.dedent(paper_network.__doc__.partition("Example:\n")[2])
    names = {"paper_network": paper_network}
    exec(example, names)
    assert names["ab"].shape == (1, *names["lightness"].shape, 2)


def test_refuses_an_empty_embedding():
    with pytest.raises(ValueError, match="embedding_size=0"):
        paper_network(0)


@pytest.mark.parametrize(("height", "width"), [(24, 16), (1, 5), (9, 1), (23, 50)])
def test_takes_photos_of_any_height_and_width(network, height, width):
    output = network.predict_on_batch(inputs(3, height, width))
    assert output.shape == (3, height, width, 2) and output.dtype == np.float32
    assert np.isfinite(output).all() and np.abs(output).max() <= 1


def test_padding_repeats_the_edge_and_leaves_multiples_of_8_untouched():
    rng = np.random.default_rng(0)
    for height, width in ((16, 24), (8, 8), (5, 13), (12, 16)):
        photo = rng.random((2, height, width, 3), "float32")
        expected = np.pad(photo, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), "edge")
        np.testing.assert_array_equal(ops.convert_to_numpy(PadToStride()(photo)), expected)


def test_size_of_a_photo_does_not_matter_to_what_lies_far_from_its_edge(network):
    """The crop takes the padding off again: the picture stays where it was."""
    whole = inputs(1, 256, 16)
    part = {**whole, "l": whole["l"][:, :251]}
    far = slice(0, 160)
    np.testing.assert_allclose(
        network.predict_on_batch(part)[:, far],
        network.predict_on_batch(whole)[:, far],
        atol=1e-6,
    )


def test_saved_as_a_keras_file_it_gives_the_same_colors(network, tmp_path):
    network.save(tmp_path / "paper.keras")
    loaded = keras.saving.load_model(tmp_path / "paper.keras")
    photo = inputs(height=13, width=21)
    np.testing.assert_array_equal(loaded.predict_on_batch(photo), network.predict_on_batch(photo))


@pytest.mark.parametrize("layer", [PadToStride(name="a"), CropLike(name="b")])
def test_custom_layers_rebuild_from_their_config(layer):
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer) and again.get_config() == layer.get_config()


def test_mixed_precision_gives_nearly_the_same_colors_in_float32(network):
    mixed = paper_network(dtype="mixed_bfloat16")
    mixed.set_weights(network.get_weights())
    assert mixed.get_layer("encoder_1").compute_dtype == "bfloat16"
    photo = inputs(height=64, width=61)
    full, half = network.predict_on_batch(photo), mixed.predict_on_batch(photo)
    assert half.dtype == np.float32
    assert np.abs(full - half).max() < 0.03 * np.abs(full).max()


def test_dropout_of_the_embedding_is_for_training_only(network):
    dropping = paper_network(dropout=0.5)
    dropping.set_weights(network.get_weights())
    photo, plain = inputs(), network(inputs())
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (dropping(photo), plain)), atol=1e-6)
    trained = ops.convert_to_numpy(dropping(photo, training=True))
    assert np.abs(trained - ops.convert_to_numpy(plain)).max() > 1e-4


def test_one_step_moves_every_weight():
    keras.utils.set_random_seed(2)
    network = paper_network()
    before = network.get_weights()
    network.compile(optimizer=keras.optimizers.SGD(10.0), loss="mse")
    network.train_on_batch(inputs(4, 32, 32), np.full((4, 32, 32, 2), 0.5, "float32"))
    for variable, old, new in zip(network.weights, before, network.get_weights(), strict=True):
        assert np.isfinite(new).all()
        # Not single numbers: of 512 rectified filters some give zero on such a tiny batch.
        assert (old != new).mean() > 0.3, variable.path
    place = [variable.path for variable in network.weights].index("fusion/kernel")
    moved = (before[place] != network.get_weights()[place])[0, 0].any(axis=-1)
    assert moved[256:].all(), "some numbers of the embedding have no influence"


def test_half_precision_weights_load_back(network, tmp_path):
    whole, half = tmp_path / "whole.weights.h5", tmp_path / "half.weights.h5"
    network.save_weights(whole)
    shrink_weights(whole, half)
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    loaded = paper_network()
    loaded.load_weights(half)
    for new, old in zip(loaded.get_weights(), network.get_weights(), strict=True):
        assert new.dtype == np.float32
        # Below 6e-5 float16 has fixed steps.
        np.testing.assert_allclose(new, old, rtol=1e-3, atol=6e-8)
    photo = inputs(height=40, width=40)
    change = loaded.predict_on_batch(photo) - network.predict_on_batch(photo)
    assert np.abs(change).max() < 1e-3
    paper_network(dtype="mixed_bfloat16").load_weights(half)


# What data, training and colorizing rely on, of every network


# Of one size, as JAX compiles every operation anew for another.
LIGHTNESS = np.random.default_rng(0).uniform(0, 100, (3, 64, 96, 1)).astype("float32")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_colors_and_is_judged(name):
    architecture = get_architecture(name)
    lightness = LIGHTNESS[:, :24, :19] if name == "paper" else LIGHTNESS
    height, width = lightness.shape[1:3]
    network = architecture.build(1000, dropout=0.0, dtype="float32")
    told = architecture.inputs(lightness, np.ones((3, 1000), "float32"))
    output = network(told, training=False)
    ab = ops.convert_to_numpy(architecture.decode(output))
    assert ab.shape == (3, height // architecture.scale, width // architecture.scale, 2)
    assert ab.min() >= lab.AB_MIN and ab.max() <= lab.AB_MAX
    truth = np.random.default_rng(0).uniform(-100, 100, (3, height, width, 2)).astype("float32")
    loss = ops.convert_to_numpy(architecture.loss(truth, output))
    assert loss.shape == (3,) and (loss > 0).all()


# The pyramid


@pytest.fixture(scope="module")
def pyramid():
    """As a training begins with it."""
    keras.utils.set_random_seed(1)
    network = pyramid_network()
    start_body(network.get_layer("body"), shared_embedder())
    return network


def test_the_pyramid_is_one_network_of_seven_million_parameters():
    network = pyramid_network(dropout=0.2, dtype="mixed_bfloat16")
    assert network.count_params() == 7_060_429
    body = network.get_layer("body")
    assert body.count_params() == 4_782_024
    logits = network({"l": np.ones((1, 64, 96, 1), "float32")}, training=False)
    assert tuple(logits.shape) == (1, 16, 24, len(ab_bins()))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


def test_of_the_body_the_pointwise_convolutions_of_the_upper_blocks_are_trained(pyramid):
    layers = [layer for layer in pyramid.get_layer("body").layers if layer.weights]
    trained = {layer.name for layer in layers if layer.trainable}
    pairs = itertools.product(range(8, 21), ("expand", "project"))
    assert trained == {"conv_head", *(f"blocks_{n}_{kind}_conv" for n, kind in pairs)}
    assert all(layer.kernel_size == (1, 1) for layer in layers if layer.trainable)


def test_the_body_sees_the_gray_of_an_l_as_the_classifier_does(pyramid):
    embedder = shared_embedder()
    deepest = keras.Model(pyramid.input, pyramid.get_layer("whole").output)
    pooled = ops.convert_to_numpy(deepest({"l": lab.scale_l(LIGHTNESS)}, training=False))[:, 0, 0]
    # The classifier on the mean of the deepest map gives the embedding.
    kernel, bias = embedder.model.get_layer("fc").get_weights()
    gray = np.repeat(lab.l_to_gray(LIGHTNESS) * 255, 3, axis=-1)
    logits = ops.convert_to_numpy(embedder.model((gray - 127) / 128, training=False))
    np.testing.assert_allclose(pooled @ kernel + bias, logits, atol=2e-3)


def test_every_scale_reaches_the_pyramids_output(pyramid):
    inputs = {"l": lab.scale_l(LIGHTNESS)}
    before = ops.convert_to_numpy(pyramid(inputs, training=False))
    for layer in ("lateral_4", "lateral_8", "lateral_16", "lateral_32", "whole_project"):
        kernel, *rest = pyramid.get_layer(layer).get_weights()
        pyramid.get_layer(layer).set_weights([0 * kernel, *rest])
        after = ops.convert_to_numpy(pyramid(inputs, training=False))
        pyramid.get_layer(layer).set_weights([kernel, *rest])
        assert np.abs(after - before).max() > 1e-3, layer


def test_bins_are_where_srgb_has_colors():
    bins = ab_bins()
    assert bins.shape == (261, 2) and (bins % 10 == 0).all()
    colors = np.random.default_rng(0).uniform(0, 1, (100_000, 3))
    ab = rgb2lab(colors[:, None])[:, 0, 1:]
    cells = np.floor(ab / 10 + 0.5) * 10
    known = {tuple(center) for center in bins}
    missing = [cell for cell in map(tuple, cells) if cell not in known]
    assert len(missing) < 10  # A corner of sRGB may touch a cell between the levels of the cube.


def test_soft_targets_are_those_of_zhang():
    ab = np.random.default_rng(0).uniform(-60, 60, (500, 2)).astype("float32")
    targets = ops.convert_to_numpy(soft_targets(ab))
    bins = ab_bins()
    compared = 0
    for color, target in zip(ab, targets, strict=True):
        distances = ((bins - color) ** 2).sum(axis=1)
        nearest = np.argsort(distances)[:5]
        expected = np.zeros(len(bins))
        expected[nearest] = np.exp(-distances[nearest] / 50)
        expected /= expected.sum()
        # Two bins that are about as far may change places: their neighbors are found for whole ab.
        margin = np.sort(distances)[5] - np.sort(distances)[4]
        if margin > 30:
            compared += 1
            np.testing.assert_allclose(target, expected, atol=1e-5)
        assert target.sum() == pytest.approx(1, abs=1e-5) and (target > 0).sum() == 5
        inside = np.abs(target @ bins - color).max()
        assert inside < 6 or distances.min() > 50  # Its mean is near the color, within the bins.
    assert compared > 50


def test_cross_entropy_by_hand():
    rng = np.random.default_rng(0)
    ab = rng.uniform(-40, 40, (2, 8, 4, 2)).astype("float32")
    logits = rng.normal(size=(2, 2, 1, 261)).astype("float32")
    losses = ops.convert_to_numpy(cross_entropy_on_bins(ab, logits))
    means = ab.reshape(2, 2, 4, 1, 4, 2).mean(axis=(2, 4))
    targets = ops.convert_to_numpy(soft_targets(means.reshape(-1, 2))).reshape(logits.shape)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(losses, -(targets * log_p).sum(-1).mean((1, 2)), rtol=1e-5)


def test_the_mean_of_bins_and_its_knob():
    rng = np.random.default_rng(0)
    bins, counts = ab_bins(), rng.integers(0, 1000, (23, 23))
    sure = np.full((1, 1, 1, 261), -1e4, "float32")
    sure[..., 17] = 0
    for vividness in (0.0, 1.0):
        ab = ops.convert_to_numpy(mean_of_bins(sure, counts, vividness))
        np.testing.assert_allclose(ab[0, 0, 0], bins[17], atol=1e-3)

    logits = rng.normal(size=(2, 1, 1, 261)).astype("float32")
    prior = counts[tuple((bins / 10 + 11).astype(int).T)] / 1.0
    rarity = np.log(0.5 * prior / prior.sum() + 0.5 / 261)
    for vividness, (temperature, gamma) in {0.0: (1, 0), 1.0: (0.5, 0.75)}.items():
        p = np.exp((logits - gamma * rarity) / temperature)
        expected = (p / p.sum(-1, keepdims=True)) @ bins
        ab = ops.convert_to_numpy(mean_of_bins(logits, counts, vividness))
        np.testing.assert_allclose(ab, expected, atol=1e-3)
    np.testing.assert_allclose(
        ops.convert_to_numpy(mean_of_bins(logits)),
        ops.convert_to_numpy(mean_of_bins(logits, counts, 0.0)),
        atol=1e-4,
    )
    # A knob for each photo.
    each = np.array([0.0, 1.0], "float32").reshape(2, 1, 1, 1)
    both = ops.convert_to_numpy(mean_of_bins(logits, counts, each))
    np.testing.assert_allclose(both[1], expected[1], atol=1e-3)


def test_the_papers_loss_is_the_mean_square_of_ab_over_127():
    architecture = get_architecture("paper")
    truth = np.array([[[[127.0, 0.0]]], [[[0.0, -63.5]]]], "float32")
    output = np.array([[[[0.5, 0.5]]], [[[0.0, 0.0]]]], "float32")
    loss = ops.convert_to_numpy(architecture.loss(truth, output))
    np.testing.assert_allclose(loss, [(0.5**2 + 0.5**2) / 2, 0.5**2 / 2])
    np.testing.assert_allclose(
        ops.convert_to_numpy(architecture.decode(output))[0, 0, 0], [63.5, 63.5]
    )


def test_an_unknown_network_is_named_with_the_known_ones():
    with pytest.raises(ColorlibError, match=r"'papr'.*paper"):
        get_architecture("papr")
