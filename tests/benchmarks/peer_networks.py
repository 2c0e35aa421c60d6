"""The networks that `peers.py` trains beside `paper` and `pyramid`, each in its shortest form.

A network is a builder, a loss and a decoding: a `colorlib.model.Architecture`, in `architectures`
under its name. All see L in -1..1 and are judged by the color that their own decoding gives.
"""

from functools import lru_cache, partial

import keras
import numpy as np
from keras import layers, ops

from colorlib import lab, model
from colorlib.embedding import lite2_body

# Batch normalization forgets quickly, because a training of minutes has few steps.
MOMENTUM = 0.9


def _conv(dtype, **options):
    """A 3x3 convolution with a ReLU, but for what `options` change."""
    return partial(
        layers.Conv2D,
        **{"kernel_size": 3, "padding": "same", "activation": "relu", "dtype": dtype} | options,
    )


def _follow(x, steps):
    """What a chain of layers makes of `x`."""
    for layer in steps:
        x = layer(x)
    return x


# Zhang, Isola and Efros 2016, "Colorful image colorization" (arXiv 1603.08511)

ZHANG_BINS, ZHANG_SHARE, ZHANG_TEMPERATURE = 313, 0.5, 0.38
# Filters, convolutions, stride of the last one, dilation: blocks 1 to 7.
ZHANG_BLOCKS = (
    (64, 2, 2, 1),
    (128, 2, 2, 1),
    (256, 3, 2, 1),
    (512, 3, 1, 1),
    (512, 3, 1, 2),
    (512, 3, 1, 2),
    (512, 3, 1, 1),
)


def zhang2016(size=None, dropout=0.0, dtype=None):
    """Eight blocks of convolutions, dilated in the middle, then a distribution over colors.

    The layers of `colorizers/eccv16.py` in github.com/richzhang/colorization. 32,240,377
    parameters: 32,235,385 that are trained, and the running statistics of batch normalization. The
    targets are shared by the five nearest bins, as in the paper, where the authors' code takes ten;
    its mask, which leaves nearly gray photos out of the loss, is not needed here, because such
    photos are not trained on.

    Returns:
        keras.Model: `l` (B, H, W, 1), multiples of 8 -> float32 logits (B, H/4, W/4, 313).
    """
    conv = _conv(dtype)
    x = lightness = keras.Input((None, None, 1), name="l")
    for filters, count, strides, dilation in ZHANG_BLOCKS:
        for n in range(1, count + 1):
            x = conv(filters, strides=strides if n == count else 1, dilation_rate=dilation)(x)
        x = layers.BatchNormalization(momentum=MOMENTUM, dtype=dtype)(x)
    x = layers.Conv2DTranspose(256, 4, 2, padding="same", activation="relu", dtype=dtype)(x)
    x = _follow(x, [conv(256), conv(256), layers.Conv2D(ZHANG_BINS, 1, dtype=dtype)])
    logits = layers.Activation("linear", name="logits", dtype="float32")(x)
    return keras.Model({"l": lightness}, logits, name="zhang2016")


@lru_cache(maxsize=1)
def zhang_bins():
    """313 points of the grid of 10: those that lie nearest to the colors of sRGB.

    Their number is the authors'; their own list isn't part of this project. In 261 of ours there
    are colors (`model.ab_bins`); the others lie at the rim, and a color has little of them.

    Returns:
        float32 array (313, 2), in Lab units.
    """
    axis = lab.AB_GRID * (np.arange(lab.AB_BINS) - lab.AB_BINS // 2)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    levels = np.linspace(0, 1, 24)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    distances = np.linalg.norm(grid - lab.rgb_to_lab(cube)[..., 1:], axis=-1).min(axis=1)
    nearest = np.sort(np.argsort(distances, kind="stable")[:ZHANG_BINS])
    return grid[nearest, 0].astype("float32")


def rebalancing(ab_counts):
    """The weights that give rare colors more of the loss (section 2.2): float32 array (313,).

    `w = 1 / (0.5 p + 0.5 / Q)`, so scaled that its mean over the training photos is 1, where `p` is
    how often the bins occur in them, smoothed by a Gaussian of sigma 5.

    Args:
        ab_counts: array (23, 23), `lab.ab_bin_counts` of the training photos.
    """
    bins = zhang_bins()
    rows, columns = (bins / lab.AB_GRID + lab.AB_BINS // 2).astype(int).T
    squares = ((bins[:, None] - bins) ** 2).sum(axis=-1)
    kernel = np.exp(squares / (-2 * 5.0**2))
    shares = kernel @ np.asarray(ab_counts, "float64")[rows, columns]
    shares /= shares.sum()
    weights = 1 / ((1 - ZHANG_SHARE) * shares + ZHANG_SHARE / len(bins))
    return (weights / (shares * weights).sum()).astype("float32")


def rebalanced_cross_entropy(ab, logits, weights):
    """Cross-entropy against `model.soft_targets`, times the weight of the nearest bin: (B,).

    Of every fourth pixel, as the authors' code does it: means would be paler.
    """
    targets = model.soft_targets(ops.reshape(ab[:, ::4, ::4], (-1, 2)), zhang_bins)
    losses = ops.categorical_crossentropy(
        targets, ops.reshape(logits, (-1, ZHANG_BINS)), from_logits=True
    )
    losses = losses * ops.take(weights, ops.argmax(targets, axis=-1))
    return ops.mean(ops.reshape(losses, (ops.shape(logits)[0], -1)), axis=1)


def annealed_mean(logits, ab_counts=None, vividness=0.0):
    """The mean over the bins after a softmax at T = 0.38 (section 2.3): ab (B, h, w, 2)."""
    return ops.matmul(ops.softmax(logits / ZHANG_TEMPERATURE, axis=-1), zhang_bins())


# Iizuka, Simo-Serra and Ishikawa 2016, "Let there be color!" (ACM Transactions on Graphics 35.4)


def iizuka2016(size=None, dropout=0.0, dtype=None):
    """Global features of the whole photo, learned along with the local ones and fused with them.

    Section 3 and table 1: low-level features, from which mid-level and global ones go out, then
    fusion and colorization. The low-level layers work twice with the same weights: on the photo at
    its size, and for the global features on the photo at 224 x 224 px, however large it is. So on
    crops of 96 px they take six times as long as they would on shared maps. While the network is
    trained, the whole photo is the crop. Batch normalization after each layer but the last. The
    output's sigmoid is brought to -1..1, and enlarged bilinearly.

    Left out: the classification of the scene, whose loss trained the global features too. It wants
    labels, which the photos don't have, and nothing stands in for it: the answers of a classifier
    would bring ImageNet's labels into a network that never had them.

    42,189,314 parameters; 42,169,826 when the normalization is folded into the layers, as the
    authors do after training.

    Returns:
        keras.Model: `l` (B, H, W, 1), multiples of 8 -> float32 (B, H, W, 2), ab / 127.
    """

    dense = partial(layers.Dense, use_bias=False, dtype=dtype)
    conv = _conv(dtype, activation=None, use_bias=False)

    def normalized(*made):
        for layer in made:
            yield layer
            yield layers.BatchNormalization(momentum=MOMENTUM, dtype=dtype)
            yield layers.ReLU(dtype=dtype)

    def upsampling():
        return layers.UpSampling2D(2, dtype=dtype)

    # The low and mid levels are the encoder that the paper of 2017 took over.
    low = list(normalized(*(conv(n, strides=strides) for n, strides in model.ENCODER[:6])))
    lightness = keras.Input((None, None, 1), name="l")
    x = _follow(_follow(lightness, low), normalized(conv(512), conv(256)))
    whole = _follow(ops.image.resize(lightness, (224, 224), "bilinear"), low)
    whole = _follow(whole, normalized(*(conv(512, strides=strides) for strides in (2, 1, 2, 1))))
    vector = layers.Flatten(dtype=dtype)(whole)
    vector = _follow(vector, normalized(dense(1024), dense(512), dense(256)))
    grid = ops.ones_like(x[..., :1]) * vector[:, None, None, :]
    x = layers.Concatenate(name="fusion", dtype=dtype)([x, grid])
    x = _follow(x, normalized(conv(256, kernel_size=1), conv(128)))
    x = _follow(upsampling()(x), normalized(conv(64), conv(64)))
    x = _follow(upsampling()(x), normalized(conv(32)))
    x = _conv(dtype, activation="sigmoid")(2)(x)
    x = layers.UpSampling2D(2, interpolation="bilinear", dtype="float32")(x)
    x = layers.Rescaling(2.0, -1.0, name="ab", dtype="float32")(x)
    return keras.Model({"l": lightness}, x, name="iizuka2016")


# Larsson, Maire and Shakhnarovich 2016, "Learning representations for automatic colorization"
# (arXiv 1603.06668)

LARSSON_BINS, LARSSON_HUE_WEIGHT, LARSSON_FADING = 32, 5.0, 0.03
CHROMA_BIN = 128 / LARSSON_BINS  # units of ab; the most vivid color of sRGB has a chroma of 134


def larsson2016(size=None, dropout=0.0, dtype=None):
    """Hypercolumns over an ImageNet backbone, then histograms of hue and of chroma at each place.

    Section 3 and `train/train_vgg16.prototxt` in github.com/gustavla/autocolorize, with
    EfficientNet-Lite2 (`embedding.lite2_body`, trained along as in `pyramid`) in the place of
    VGG-16: the gray and the maps of all scales at a place make its column, a layer of 1024 follows,
    a dropout of 0.5, and twice 32 bins. Color is coded as hue and chroma of Lab instead of HSL, and
    all places of the quarter resolution are trained, not 128 of each photo. A histogram is that of
    4 x 4 pixels instead of 7 x 7, and chroma counts as much in dark and bright places as in others,
    as in the paper; the authors' code lets it count for less there. The loss weighs the hue of a
    place by the mean chroma there, not by that of its one pixel, and color is made at the quarter
    resolution and then enlarged, where the authors enlarge the histograms. 7,340,040 parameters,
    4,782,024 of them the backbone's.

    The first layer is applied to each map before it is enlarged: both are linear, so the order
    makes no difference but that of a seventh of the multiplications.

    Returns:
        keras.Model: `l` (B, H, W, 1), multiples of 32 -> float32 logits (B, H/4, W/4, 64), those of
        hue first.
    """
    lightness = keras.Input((None, None, 1), name="l")
    gray = ops.repeat(lab.l_to_gray(lab.unscale_l(lightness)) * 255.0, 3, axis=-1)
    maps = lite2_body(dtype)((gray - 127.0) / 128.0)
    columns = [layers.Conv2D(1024, 1, dtype=dtype)(layers.AveragePooling2D(4)(lightness))]
    for stride in (4, 8, 16, 32):
        part = layers.Conv2D(1024, 1, use_bias=False, dtype=dtype)(maps[f"stride_{stride}"])
        if stride > 4:
            enlarge = layers.UpSampling2D(stride // 4, interpolation="bilinear", dtype="float32")
            part = enlarge(part)
        columns.append(part)
    x = layers.ReLU(name="column", dtype=dtype)(layers.Add(dtype=dtype)(columns))
    x = layers.Dropout(0.5, dtype=dtype)(x)
    x = layers.Conv2D(2 * LARSSON_BINS, 1, dtype=dtype)(x)
    logits = layers.Activation("linear", name="logits", dtype="float32")(x)
    return keras.Model({"l": lightness}, logits, name="larsson2016")


def _histogram(positions, circular):
    """How the pixels of each 4 x 4 places lie in 32 bins, each shared by its two nearest ones.

    Args:
        positions: tensor (B, H, W, 1), in bins: 0.5 is the center of the first.
        circular: bool. Whether the last bin is the first one's neighbor.
    """
    away = ops.abs(positions - (ops.arange(LARSSON_BINS, dtype="float32") + 0.5))
    if circular:
        away = ops.minimum(away, LARSSON_BINS - away)
    return ops.average_pool(ops.maximum(1.0 - away, 0.0), 4, 4)


def histogram_losses(ab, logits):
    """Cross-entropy against the histograms of the pixels around each place (section 3): (B,).

    Of chroma, and five times hue, weighted by the place's chroma: gray has no hue.
    """
    a, b = ab[..., :1], ab[..., 1:]
    chroma = ops.sqrt(ops.square(a) + ops.square(b))
    hue = ops.arctan2(b, a) / (2 * np.pi) * LARSSON_BINS  # -16..16
    hues = _histogram(ops.where(hue < 0, hue + LARSSON_BINS, hue), circular=True)
    inside = ops.clip(chroma / CHROMA_BIN, 0.5, LARSSON_BINS - 0.5)
    chromas = _histogram(inside, circular=False)
    weight = ops.average_pool(chroma, 4, 4)[..., 0] / (LARSSON_BINS * CHROMA_BIN)
    of_hue, of_chroma = (
        ops.categorical_crossentropy(target, part, from_logits=True)
        for target, part in zip((hues, chromas), ops.split(logits, 2, axis=-1), strict=True)
    )
    return ops.mean(LARSSON_HUE_WEIGHT * weight * of_hue + of_chroma, axis=(1, 2))


def median_chroma_and_mean_hue(logits, ab_counts=None, vividness=0.0):
    """The color of two histograms, as the authors' code makes it: ab (B, h, w, 2).

    The median chroma, the mean direction of hue, and less chroma where hues contradict each other
    ("chromatic fading").
    """
    of_hue, of_chroma = (ops.softmax(part, axis=-1) for part in ops.split(logits, 2, axis=-1))
    angles = 2 * np.pi * (np.arange(LARSSON_BINS) + 0.5) / LARSSON_BINS
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype("float32")
    mean = ops.matmul(of_hue, directions)
    length = ops.sqrt(ops.sum(ops.square(mean), axis=-1, keepdims=True)) + 1e-6
    below = ops.cast(ops.cumsum(of_chroma, axis=-1) < 0.5, "float32")
    median = CHROMA_BIN * (ops.sum(below, axis=-1, keepdims=True) + 0.5)
    fading = ops.minimum(length / LARSSON_BINS / LARSSON_FADING, 1.0)
    return median * fading * mean / length


# Emil Wallner 2017, "Colorizing B&W photos with neural networks" (the blog of FloydHub)


def wallner2017(size=None, dropout=0.0, dtype=None):
    """The article's beta version, the first of its networks that colors photos it hasn't seen.

    The layers of `Beta-version/beta_version.ipynb` in his repository Coloring-greyscale-images, the
    same as in the article. 3,892,194 parameters.

    Returns:
        keras.Model: `l` (B, H, W, 1), multiples of 8 -> float32 (B, H, W, 2), ab / 127.
    """
    conv = _conv(dtype)
    x = lightness = keras.Input((None, None, 1), name="l")
    for filters in (64, 128, 256):
        x = _follow(x, [conv(filters), conv(filters, strides=2)])
    x = _follow(x, [conv(512), conv(256), conv(128), layers.UpSampling2D(2, dtype=dtype)])
    x = _follow(x, [conv(64), layers.UpSampling2D(2, dtype=dtype)])
    x = _follow(x, [conv(32), conv(2, activation="tanh"), layers.UpSampling2D(2, dtype=dtype)])
    output = layers.Activation("linear", name="ab", dtype="float32")(x)
    return keras.Model({"l": lightness}, output, name="wallner2017")


# Kriztoper, "Ensemble image colorization using convolutional neural networks with refinement
# network" (a fork of the paper's code)


def kriztoper(size=1000, dropout=0.0, dtype=None):
    """The paper's network, then one that is shown its color beside L and colors once more.

    The idea and the second network's layers are those of `Refinement` in
    `colorization/network_definition.py` of github.com/Kriztoper/deep-koalarization, whose history
    holds several variants. 39,218,020 parameters: 6,573,794 of the paper's network and 32,644,226
    of the refinement.

    Returns:
        keras.Model: dict of `l` (B, H, W, 1), multiples of 32, and `embedding` (B, size) -> float32
        (B, H, W, 4): ab / 127 of the first network and of the refinement.
    """
    conv = _conv(dtype)
    first = model.paper_network(size, dropout, dtype)
    x = layers.Concatenate(name="refine", dtype=dtype)([first.input["l"], first.output])
    x = _follow(x, [conv(64, strides=2), conv(128), conv(128, strides=2), conv(256)])
    x = _follow(x, [conv(256, strides=2), conv(512), conv(512), conv(256)])
    for _ in range(2):
        x = _follow(x, [conv(512, strides=2), conv(512), layers.Dropout(0.2, dtype=dtype)])
    x = _follow(x, [conv(1024, kernel_size=5), conv(512), conv(128)])
    x = layers.UpSampling2D(8, interpolation="bilinear", dtype="float32")(x)
    x = _follow(x, [conv(64), conv(64)])
    x = layers.UpSampling2D(4, interpolation="bilinear", dtype="float32")(x)
    x = _follow(x, [conv(32), conv(32), conv(2, activation="tanh")])
    both = layers.Concatenate(name="both", dtype="float32")([first.output, x])
    return keras.Model(first.input, both, name="kriztoper")


def both_errors(ab, output):
    """The mean squared errors of the first color and of the refined one, added: (B,)."""
    return model.mse_on_ab(ab, output[..., :2]) + model.mse_on_ab(ab, output[..., 2:])


def architectures(ab_counts):
    """The networks by name, beside those of `colorlib.model.ARCHITECTURES`.

    Args:
        ab_counts: array (23, 23), `lab.ab_bin_counts` of the training photos.

    Returns:
        dict of colorlib.model.Architecture.
    """
    ab = model.ARCHITECTURES["paper"].decode
    weighted = partial(rebalanced_cross_entropy, weights=rebalancing(ab_counts))
    return {
        "zhang2016": model.Architecture(zhang2016, weighted, annealed_mean, stride=8, scale=4),
        "iizuka2016": model.Architecture(iizuka2016, model.mse_on_ab, ab, stride=8),
        "larsson2016": model.Architecture(
            larsson2016, histogram_losses, median_chroma_and_mean_hue, stride=32, scale=4
        ),
        "wallner2017": model.Architecture(wallner2017, model.mse_on_ab, ab, stride=8),
        "kriztoper": model.Architecture(
            kriztoper,
            both_errors,
            lambda output, ab_counts=None, vividness=0.0: lab.unscale_ab(output[..., 2:]),
            stride=32,
            embedded=True,
        ),
    }
