"""The networks: grey photo (and its embedding) in, color out.

`paper` is the network of Deep Koalarization, layer for layer. A network is a `Network`: a builder
of a functional Keras model over `l` and, if it wants one, `embedding`; a loss on the true ab; and a
decoding of its output to ab. Data, training and colorizing know nothing else of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import layers, ops

from colorlib import ColorlibError, lab

# Filters and strides of the encoder, 3x3 convolutions (the paper, table 1).
ENCODER = ((64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 1), (256, 1))
STRIDE = 8


@keras.saving.register_keras_serializable(package="colorlib")
class PadToMultiple(layers.Layer):
    """Reflects height and width at the bottom and right up to a multiple of `multiple`.

    Args:
        multiple: int. Defaults to 8.
    """

    def __init__(self, multiple=STRIDE, **kwargs):
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, x):
        for axis in (1, 2):
            length = ops.shape(x)[axis]
            if isinstance(length, int) and length % self.multiple == 0:
                continue
            index = ops.arange((length + self.multiple - 1) // self.multiple * self.multiple)
            # The outer maximum serves photos that are narrower than their padding.
            index = ops.where(index < length, index, ops.maximum(2 * length - 2 - index, 0))
            x = ops.take(x, index, axis=axis)
        return x

    def compute_output_shape(self, shape):
        padded = [n and -(-n // self.multiple) * self.multiple for n in shape[1:3]]
        return (shape[0], *padded, shape[3])

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable(package="colorlib")
class CropLike(layers.Layer):
    """Crops the first of two maps to the height and width of the second."""

    def call(self, inputs):
        x, reference = inputs
        height, width = ops.shape(reference)[1:3]
        return x[:, :height, :width, :]

    def compute_output_shape(self, shapes):
        return (*shapes[1][:3], shapes[0][3])


@keras.saving.register_keras_serializable(package="colorlib")
class RepeatOverGrid(layers.Layer):
    """Repeats a vector (B, E) at every place of a map (B, H, W, C): the paper's fusion, 3.2.

    Returns (B, H, W, C + E), the map's channels first.
    """

    def call(self, inputs):
        features, vector = inputs
        height, width = ops.shape(features)[1:3]
        shape = (ops.shape(features)[0], height, width, vector.shape[-1])
        grid = ops.broadcast_to(vector[:, None, None, :], shape)
        return ops.concatenate([features, grid], axis=-1)

    def compute_output_shape(self, shapes):
        return (*shapes[0][:3], shapes[0][3] + shapes[1][1])


def paper_network(embedding_size=1000, dropout=0.0, dtype=None):
    """The network of Deep Koalarization: encoder, fusion, decoder.

    Baldassarre, González Morín and Rodés-Guirao 2017 (arXiv 1712.03400), section 2 and table 1.
    The embedding of the whole photo is repeated over the encoder's grid, so that every place of
    the photo knows what the photo shows. 6,573,794 parameters with 1000 logits. Heights and
    widths that are no multiple of 8 are padded by reflection and cropped back.

    Args:
        embedding_size: int. Length of the embedding. Defaults to 1000.
        dropout: float in 0..1. Share of the embedding's values dropped in training; the paper has
            none. Defaults to 0.
        dtype: Keras dtype or policy, such as `"mixed_bfloat16"`. Defaults to the global one.

    Returns:
        keras.Model: dict of `l` (B, H, W, 1), L scaled to -1..1, and `embedding`
        (B, embedding_size) -> (B, H, W, 2) float32, ab / 127 in -1..1.

    Example:

        network = paper_network()
        ab = network({"l": l, "embedding": embedding})
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

    x = PadToMultiple(STRIDE, name="pad", dtype=dtype)(lightness)
    for index, (filters, strides) in enumerate(ENCODER, 1):
        x = conv(x, filters, f"encoder_{index}", strides)

    vector = embedding
    if dropout:
        vector = layers.Dropout(dropout, name="embedding_dropout", dtype=dtype)(vector)
    x = RepeatOverGrid(name="fusion_repeat", dtype=dtype)([x, vector])
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


def mse_on_ab(ab, output):
    """The paper's loss (section 2.4): mean squared error on ab / 127, per photo, (B,)."""
    return ops.mean(ops.square(lab.scale_ab(ab) - output), axis=(1, 2, 3))


@dataclass(frozen=True)
class Network:
    """What the rest of the library needs to know of a network.

    Attributes:
        build: callable(embedding_size, dropout, dtype) -> keras.Model over a dict of `l` and, if
            `uses_embedding`, `embedding`.
        loss: callable(ab in Lab units (B, H, W, 2), output) -> (B,).
        decode: callable(output) -> ab in Lab units (B, H, W, 2).
        uses_embedding: bool.
    """

    build: Callable
    loss: Callable
    decode: Callable
    uses_embedding: bool = True


NETWORKS = {"paper": Network(paper_network, mse_on_ab, lab.unscale_ab)}


def get_network(name):
    """The Network of this name, or a ColorlibError that lists the known ones."""
    if name not in NETWORKS:
        raise ColorlibError(f"Unknown network {name!r}: must be one of {', '.join(NETWORKS)}")
    return NETWORKS[name]
