"""A network like `pyramid` in four layers, for what training does alike with every network.

It has what a run must keep of `pyramid`: a pretrained body that is frozen in part and learns
slowly, moving statistics, and a distribution over colors. Importing this module makes it known.
"""

from dataclasses import replace

import keras
from keras import layers, ops

from colorlib.model import ARCHITECTURES, ab_bins

NAME = "small"


def small_network(embedding_size=None, dropout=0.0, dtype=None):
    """L (B, H, W, 1), H and W multiples of 4 -> logits (B, H/4, W/4, Q)."""
    photo = keras.Input((None, None, 3))
    # Layers are named as those of the classifier that they get their weights from.
    x = layers.Conv2D(
        32, 3, 2, padding="same", activation="relu", name="conv_stem", trainable=False, dtype=dtype
    )(photo)
    x = layers.Conv2D(16, 1, activation="relu", name="blocks_0_project_conv", dtype=dtype)(x)
    body = keras.Model(photo, x, name="body")

    lightness = keras.Input((None, None, 1), name="l")
    x = layers.AveragePooling2D(2, dtype=dtype)(body(ops.repeat(lightness, 3, axis=-1)))
    if dropout:
        x = layers.SpatialDropout2D(dropout, dtype=dtype)(x)
    x = layers.BatchNormalization(momentum=0.9, dtype=dtype)(x)
    x = layers.Conv2D(len(ab_bins()), 1, dtype=dtype)(x)
    output = layers.Activation("linear", dtype="float32")(x)
    return keras.Model({"l": lightness}, output, name=NAME)


def embedded_network(embedding_size, dropout=0.0, dtype=None):
    """The same with an embedding (B, E), as the paper's network has one."""
    network = small_network(None, dropout, dtype)
    embedding = keras.Input((embedding_size,), name="embedding")
    told = layers.Reshape((1, 1, -1))(layers.Dense(len(ab_bins()), dtype="float32")(embedding))
    inputs = {"l": network.input["l"], "embedding": embedding}
    return keras.Model(inputs, layers.Add(dtype="float32")([network.output, told]))


ARCHITECTURES[NAME] = replace(ARCHITECTURES["pyramid"], build=small_network, stride=4)
