"""The networks: L in, color out.

First the network of Deep Koalarization, layer for layer: it is told what the whole photo shows.
Then `pyramid`, which carries the idea further: it fuses what an ImageNet backbone sees at every
scale, and gives a distribution over colors. At the end, what data, training and colorizing need to
know of either: its `Architecture`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import keras
import numpy as np
from keras import layers, ops

from colorlib import ColorlibError, lab
from colorlib.embedding import lite2_body

# Filters and strides of the encoder, 3x3 convolutions (the paper, table 1).
ENCODER = ((64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 1), (256, 1))
STRIDE = 8


def paper_network(embedding_size=1000, dropout=0.0, dtype=None):
    """The network of Deep Koalarization: encoder, fusion, decoder.

    Baldassarre, González Morín and Rodés-Guirao 2017 (arXiv 1712.03400), section 2 and table 1.
    The embedding of the whole photo is repeated over the encoder's grid, so that every place of
    the photo knows what the photo shows. 6,573,794 parameters with 1000 logits. Any height and
    width will do: the last row and column are repeated up to a multiple of 8, and cropped again.

    Args:
        embedding_size: int. Length of the embedding. Defaults to 1000.
        dropout: float in 0..1. Share of the embedding's values dropped in training; the paper has
            none. Defaults to 0.
        dtype: Keras dtype or policy, such as `"mixed_bfloat16"`. Defaults to the global one.

    Returns:
        keras.Model: dict of `l` (B, H, W, 1), L scaled to -1..1, and `embedding`
        (B, embedding_size) -> (B, H, W, 2) float32, ab / 127 in -1..1.

    Example:

        from colorlib import lab, photos
        from colorlib.embedding import Embedder

        rgb = photos.read(photos.packaged("sample")["path"][0])
        lightness = lab.lightness(rgb)  # (H, W)
        network = paper_network()
        ab = network({
            "l": lab.scale_l(lightness)[None, ..., None],
            "embedding": Embedder()(lightness),
        })
    """
    if embedding_size < 1:
        raise ValueError(f"embedding_size must be at least 1. Received: {embedding_size=}")

    def conv(x, filters, name, strides=1, kernel=3, activation="relu"):
        return layers.Conv2D(
            filters, kernel, strides, padding="same", activation=activation, name=name, dtype=dtype
        )(x)

    def upsample(x, name):
        return layers.UpSampling2D(2, name=name, dtype=dtype)(x)

    lightness = keras.Input((None, None, 1), name="l")
    embedding = keras.Input((embedding_size,), name="embedding")

    x = PadToStride(name="pad", dtype=dtype)(lightness)
    for index, (filters, strides) in enumerate(ENCODER, 1):
        x = conv(x, filters, f"encoder_{index}", strides)

    vector = embedding
    if dropout:
        vector = layers.Dropout(dropout, name="embedding_dropout", dtype=dtype)(vector)
    # The paper's fusion (section 3.2): the vector at every place, stacked on the map.
    grid = ops.ones_like(x[..., :1]) * ops.cast(vector, x.dtype)[:, None, None, :]
    x = layers.Concatenate(name="fusion_stack", dtype=dtype)([x, grid])
    x = conv(x, 256, "fusion", kernel=1)

    x = conv(x, 128, "decoder_1")
    x = upsample(x, "upsample_1")
    x = conv(x, 64, "decoder_2")
    x = conv(x, 64, "decoder_3")
    x = upsample(x, "upsample_2")
    x = conv(x, 32, "decoder_4")
    x = conv(x, 2, "decoder_5", activation="tanh")
    x = upsample(x, "upsample_3")
    x = CropLike(name="crop", dtype=dtype)([x, lightness])
    # The output is a color: half precision would show as steps.
    output = layers.Activation("linear", name="ab", dtype="float32")(x)
    return keras.Model({"l": lightness, "embedding": embedding}, output, name="paper")


@keras.saving.register_keras_serializable(package="colorlib")
class PadToStride(layers.Layer):
    """Repeats the last row and column up to a multiple of 8, so that no convolution shifts."""

    def call(self, x):
        for axis in (1, 2):
            length = ops.shape(x)[axis]
            padded = (length + STRIDE - 1) // STRIDE * STRIDE
            x = ops.take(x, ops.minimum(ops.arange(padded), length - 1), axis=axis)
        return x

    def compute_output_shape(self, shape):
        return (shape[0], *(n and -(-n // STRIDE) * STRIDE for n in shape[1:3]), shape[3])


@keras.saving.register_keras_serializable(package="colorlib")
class CropLike(layers.Layer):
    """Crops the first of two maps to the height and width of the second."""

    def call(self, inputs):
        x, reference = inputs
        height, width = ops.shape(reference)[1:3]
        return x[:, :height, :width, :]

    def compute_output_shape(self, shapes):
        return (*shapes[1][:3], shapes[0][3])


def mse_on_ab(ab, output):
    """The paper's loss (section 2.4): mean squared error on ab / 127, per photo, (B,)."""
    return ops.mean(ops.square(lab.scale_ab(ab) - output), axis=(1, 2, 3))


# Stride, filters of the 1x1 convolution of the backbone's map, filters of the 3x3 convolutions of
# `pyramid`. Narrow where the maps are large: stride 4 takes half of the time as it is.
PYRAMID = ((16, 128, (256,)), (8, 96, (128, 64)), (4, 32, (64, 64)))


def pyramid_network(dropout=0.0, dtype=None):
    """An ImageNet backbone whose maps a decoder fuses at strides 4, 8, 16 and 32.

    Where the paper gives every place of the photo one vector of logits, here each scale of the
    decoder gets the backbone's maps of that scale, and the deepest also their mean over the photo.
    The backbone is part of the network: its lower blocks are frozen, its upper ones are trained
    (`embedding.lite2_body`). The output is a distribution over `ab_bins`, as in Zhang, Isola and
    Efros 2016 (section 2.1), at a quarter of the resolution.

    Args:
        dropout: float in 0..1. Share of the deepest maps, and of their mean over the photo, that
            is dropped in training. Defaults to 0.
        dtype: Keras dtype or policy, such as `"mixed_bfloat16"`. Defaults to the global one.

    Returns:
        keras.Model: dict of `l` (B, H, W, 1), L scaled to -1..1, H and W multiples of 32 ->
        float32 logits (B, H/4, W/4, Q).

    Example:

        network = pyramid_network()
        logits = network({"l": lab.scale_l(lightness)})
    """
    lightness = keras.Input((None, None, 1), name="l")
    # The sRGB gray of that L in three equal channels, scaled as the backbone wants its photos.
    gray = ops.repeat(lab.l_to_gray(lab.unscale_l(lightness)) * 255.0, 3, axis=-1)
    maps = lite2_body(dtype)((gray - 127.0) / 128.0)

    def conv(x, filters, kernel, name):
        x = layers.Conv2D(filters, kernel, padding="same", use_bias=False, name=name, dtype=dtype)(
            x
        )
        return norm(x, name)

    def norm(x, name):
        x = layers.BatchNormalization(momentum=0.98, name=f"{name}_norm", dtype=dtype)(x)
        return layers.ReLU(name=f"{name}_relu", dtype=dtype)(x)

    def upsample(x, name):
        # In float32 whatever the policy: faster on a CPU than in bfloat16.
        return layers.UpSampling2D(2, interpolation="bilinear", name=name, dtype="float32")(x)

    deepest = maps["stride_32"]
    whole = layers.GlobalAveragePooling2D(keepdims=True, name="whole", dtype=dtype)(deepest)
    if dropout:
        deepest = layers.SpatialDropout2D(dropout, name="maps_dropout", dtype=dtype)(deepest)
        whole = layers.Dropout(dropout, name="whole_dropout", dtype=dtype)(whole)
    whole = layers.Conv2D(192, 1, name="whole_project", dtype=dtype)(whole)
    x = layers.Conv2D(192, 1, use_bias=False, name="lateral_32", dtype=dtype)(deepest)
    x = norm(layers.Add(name="fusion_32", dtype=dtype)([x, whole]), "fusion_32")
    x = conv(x, 192, 3, "decoder_32")
    for stride, lateral, filters in PYRAMID:
        skip = conv(maps[f"stride_{stride}"], lateral, 1, f"lateral_{stride}")
        x = layers.Concatenate(name=f"fusion_{stride}", dtype=dtype)(
            [upsample(x, f"upsample_{stride}"), skip]
        )
        for index, n in enumerate(filters, 1):
            x = conv(x, n, 3, f"decoder_{stride}_{index}")
    x = layers.Conv2D(len(ab_bins()), 1, name="bins", dtype=dtype)(x)
    output = layers.Activation("linear", name="logits", dtype="float32")(x)
    return keras.Model({"l": lightness}, output, name="pyramid")


@lru_cache(maxsize=1)
def ab_bins():
    """The centers of the bins of ab, on a grid of 10, that hold any color of sRGB.

    Every color of a cube of 64 levels a channel is sorted into the bins of `lab.ab_bin_counts`;
    those that get one are kept: 261. (Zhang et al. 2016 count 313.)

    Returns:
        float32 array (Q, 2) in Lab units, in the order of the grid's rows.
    """
    levels = np.linspace(0, 1, 64)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
    held = np.argwhere(lab.ab_bin_counts(lab.rgb_to_lab(cube)[..., 1:]))
    return ((held - lab.AB_BINS // 2) * lab.AB_GRID).astype("float32")


@lru_cache(maxsize=2)
def _nearest_bins(bins):
    """The five nearest of `bins()` of every whole ab from -128 to 127: int32 (65536, 5)."""
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij")
    whole = np.stack([a, b], axis=-1).reshape(-1, 1, 2)
    distances = ((whole - bins()) ** 2).sum(axis=-1)
    return np.argsort(distances, axis=1, kind="stable")[:, :5].astype("int32")


def soft_targets(ab, bins=ab_bins):
    """A color as a distribution over its five nearest bins, a Gaussian of sigma 5.

    Zhang, Isola and Efros 2016 (arXiv 1603.08511), section 2.1.

    Args:
        ab: tensor (N, 2), in Lab units.
        bins: callable that returns the bins' centers, an array (Q, 2). Defaults to `ab_bins`.

    Returns:
        float32 tensor (N, Q); each row sums to 1.
    """
    ab = ops.clip(ab, lab.AB_MIN, lab.AB_MAX)
    whole = ops.cast(ops.round(ab), "int32") + 128
    nearest = ops.take(_nearest_bins(bins), whole[:, 0] * 256 + whole[:, 1], axis=0)
    squares = ops.sum(ops.square(ops.take(bins(), nearest, axis=0) - ab[:, None]), axis=-1)
    weights = ops.softmax(squares / (-2 * 5.0**2), axis=-1)
    rows = ops.repeat(ops.arange(ops.shape(ab)[0], dtype="int32"), 5)
    places = ops.stack([rows, ops.reshape(nearest, (-1,))], axis=-1)
    return ops.scatter(places, ops.reshape(weights, (-1,)), (ops.shape(ab)[0], len(bins())))


def cross_entropy_on_bins(ab, logits):
    """Cross-entropy of a distribution over bins against `soft_targets`, unweighted.

    The target of a place is the mean ab of the pixels that it stands for.

    Args:
        ab: tensor (B, H, W, 2), in Lab units.
        logits: tensor (B, H/4, W/4, Q).

    Returns:
        tensor (B,).
    """
    targets = soft_targets(ops.reshape(ops.average_pool(ab, 4, 4), (-1, 2)))
    losses = ops.categorical_crossentropy(
        targets, ops.reshape(logits, (-1, logits.shape[-1])), from_logits=True
    )
    return ops.mean(ops.reshape(losses, (ops.shape(logits)[0], -1)), axis=1)


def mean_of_bins(logits, ab_counts=None, vividness=0.0):
    """The color that a distribution over bins stands for.

    The rebalancing of Zhang et al. 2016 (section 2.2) moved from training to use:
    `p = softmax((z - g log(0.5 prior + 0.5 / Q)) / T)`, then the mean over the bins. `vividness`
    goes on a straight line from T = 1, g = 0, the expected color, to T = 0.5, g = 0.75.

    Args:
        logits: tensor (..., Q).
        ab_counts: array (23, 23). How often the bins occur in the training photos
            (`lab.ab_bin_counts`), or None for a vividness of 0.
        vividness: float in 0..1, or a tensor of such that broadcasts to (..., 1). Defaults to 0.

    Returns:
        float32 tensor (..., 2): ab in Lab units.
    """
    if ab_counts is not None:
        temperature, gamma = 1 - 0.5 * vividness, 0.75 * vividness
        rows, columns = (ab_bins() / lab.AB_GRID + lab.AB_BINS // 2).astype(int).T
        prior = np.asarray(ab_counts, "float64")[rows, columns]
        rarity = np.log(0.5 * prior / prior.sum() + 0.5 / len(prior)).astype("float32")
        logits = (logits - gamma * rarity) / temperature
    return ops.matmul(ops.softmax(logits, axis=-1), ab_bins())


@dataclass(frozen=True)
class Architecture:
    """What the rest of the library needs to know of a network: how it is built, judged and read.

    Attributes:
        build: callable(embedding_size, dropout, dtype) -> keras.Model over a dict of `l` and,
            where it is `embedded`, `embedding`.
        loss: callable(ab in Lab units (B, H, W, 2), output) -> (B,).
        decode: callable(output, ab_counts, vividness) -> ab in Lab units (B, H / scale,
            W / scale, 2).
        embedded: bool. Whether it is told `Embedder`'s vector of the whole photo beside `l`.
        stride: int. Heights and widths are multiples of it in training and at use.
        any_size: bool. Whether its model takes other heights and widths as well.
        scale: int. The input's size over the output's.
        vividness: bool. Whether `decode` has that knob.
    """

    build: Callable
    loss: Callable
    decode: Callable
    stride: int
    embedded: bool = False
    any_size: bool = False
    scale: int = 1
    vividness: bool = False

    def inputs(self, lightness, embedding=None):
        """What `build`'s model takes, for an L (B, H, W, 1) in 0..100 and its photos' embedding."""
        inputs = {"l": lab.scale_l(lightness)}
        return inputs | {"embedding": embedding} if self.embedded else inputs


ARCHITECTURES = {
    "paper": Architecture(
        paper_network,
        mse_on_ab,
        lambda output, ab_counts=None, vividness=0.0: lab.unscale_ab(output),
        stride=STRIDE,
        any_size=True,
        embedded=True,
    ),
    "pyramid": Architecture(
        lambda embedding_size=None, dropout=0.0, dtype=None: pyramid_network(dropout, dtype),
        cross_entropy_on_bins,
        mean_of_bins,
        stride=32,
        scale=4,
        vividness=True,
    ),
}


def jit_compile():
    """What `compile` is given for it. XLA on a CPU gives up oneDNN's convolutions: four times
    slower under TensorFlow."""
    return False if keras.backend.backend() == "tensorflow" else "auto"


def get_architecture(name):
    """The Architecture of this name, or a ColorlibError that lists the known ones."""
    if name not in ARCHITECTURES:
        raise ColorlibError(f"Unknown network {name!r}: must be one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
