"""Changes of the training photos, inside the compiled step, on any backend.

`resample` cuts a crop of any size out of a window of pixels and brings it to the size of the
network. `film` and `erase` change only the lightness that the network sees: what old film and a
scan of its print show, and a part missing. All draw from a `keras.random.SeedGenerator`, whose
state belongs to a run's checkpoint.
"""

from keras import ops, random

from colorlib import lab


def _weights(start, length, size, window):
    """Rows of a linear interpolation with antialiasing: (B, size, window)."""
    step = ops.reshape(length / size, (-1, 1, 1))
    places = ops.reshape(start, (-1, 1, 1)) - 0.5
    places = places + (ops.arange(size, dtype="float32")[None, :, None] + 0.5) * step
    distances = ops.abs(places - ops.arange(window, dtype="float32"))
    weights = ops.maximum(1.0 - distances / ops.maximum(step, 1.0), 0.0)
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def resample(pixels, box, size):
    """Brings a part of each window to `size`, by a triangle filter as wide as the reduction.

    Args:
        pixels: float32 tensor (B, S, S, C).
        box: float32 tensor (B, 3). Top, left and side of the part, in pixels of the window.
        size: int. Height and width of the result.

    Returns:
        float32 tensor (B, size, size, C).
    """
    window, channels = pixels.shape[1], pixels.shape[3]
    top, left, side = box[:, 0], box[:, 1], box[:, 2]
    rows, columns = (_weights(start, side, size, window) for start in (top, left))
    x = pixels
    for weights in (rows, columns):  # Each pass brings one axis to size and turns the other up.
        length = x.shape[2]
        x = ops.matmul(weights, ops.reshape(x, (-1, window, length * channels)))
        x = ops.transpose(ops.reshape(x, (-1, size, length, channels)), (0, 2, 1, 3))
    return x


def _uniform(shape, low, high, seed):
    return random.uniform(shape, low, high, dtype="float32", seed=seed)


def film(rgb, lightness, seed):
    """Makes photos look like scans of old prints.

    Half of them see colors as an emulsion might: red counts for between nothing (orthochromatic
    film) and twice as much as it does for the eye, and blue nearly always for more. Their gamma,
    contrast and brightness vary; some glow around the lights (halation), some are blurred, all have
    grain, and some dark corners, scratches, or the paper's border or gray mount.

    Args:
        rgb: float32 tensor (B, H, W, 3). sRGB in 0..1.
        lightness: float32 tensor (B, H, W, 1). Its L in 0..100.
        seed: keras.random.SeedGenerator.

    Returns:
        (lightness, border): the changed L in 0..100, and a tensor (B, H, W, 1) that is 1 on
        painted borders, which have no color, and 0 elsewhere.
    """
    count, height, width = ops.shape(lightness)[0], *lightness.shape[1:3]

    def draw(low, high):
        return _uniform((count, 1, 1, 1), low, high, seed)

    def chance(probability):
        return ops.cast(draw(0, 1) < probability, "float32")

    def blurred(x, scale):  # By way of a smaller picture, which takes a tenth of a wide filter.
        small = ops.average_pool(x, scale, scale, padding="same")
        return ops.image.resize(small, (height, width), "bilinear")

    red, blue = draw(0.0, 0.4), draw(0.05, 0.6)
    emulsion = ops.concatenate([red, 1.0 - red - blue, blue], axis=-1)
    x = lightness + chance(0.5) * (lab.lightness_of_film(rgb, emulsion) - lightness)
    # Gamma 0.55 to 1.8, contrast 0.6 to 1.3, black and white points.
    x = ops.power(ops.maximum(x / 100.0, 1e-4), ops.exp(draw(-0.6, 0.6)))
    x = 50.0 + (100.0 * x - 50.0) * draw(0.6, 1.3) + draw(-12, 12)
    x = x + chance(0.15) * draw(0, 1) * blurred(ops.maximum(x - 70.0, 0.0), 8)
    x = x + chance(0.5) * draw(0, 1) * (blurred(x, 3) - x)
    rows = ops.reshape(ops.linspace(-1.0, 1.0, height), (1, height, 1, 1))
    columns = ops.reshape(ops.linspace(-1.0, 1.0, width), (1, 1, width, 1))
    x = x * (1.0 - chance(0.3) * draw(0, 0.5) * 0.5 * (rows**2 + columns**2))
    x = x + draw(0, 1) ** 2 * 7.0 * random.normal(ops.shape(x), seed=seed)
    # Each column of a scratched photo is a scratch with a probability of 2 %.
    scratch = ops.cast(_uniform((count, 1, width, 1), 0, 1, seed) < 0.02, "float32")
    x = x + chance(0.2) * scratch * draw(-40, 60)
    # Borders reach up to an eighth into the photo, on each side for itself. White paper, black, or
    # a mount of any gray.
    inside = (rows > draw(-1.25, -0.75)) & (rows < draw(0.75, 1.25))
    inside = inside & (columns > draw(-1.25, -0.75)) & (columns < draw(0.75, 1.25))
    border = chance(0.2) * (1.0 - ops.cast(inside, "float32"))
    kind = draw(0, 1)
    tone = ops.where(kind < 0.5, draw(75, 100), ops.where(kind < 0.7, draw(0, 20), draw(20, 75)))
    x = x + border * (tone - x)
    return ops.clip(x, 0.0, 100.0), border


def erase(lightness, share, seed):
    """Covers a rectangle of a share of the photos with an even gray (Zhong et al. 2017).

    Args:
        lightness: float32 tensor (B, H, W, 1). L in 0..100.
        share: float in 0..1. The part of the photos that is changed.
        seed: keras.random.SeedGenerator.

    Returns:
        The changed L. Each side of a rectangle is a tenth to a half of the photo's.
    """
    count, height, width = ops.shape(lightness)[0], *lightness.shape[1:3]

    def inside(length, shape):
        extent = _uniform((count, 1, 1, 1), 0.1, 0.5, seed)
        start = _uniform((count, 1, 1, 1), 0, 1, seed) * (1.0 - extent)
        places = ops.reshape((ops.arange(length, dtype="float32") + 0.5) / length, shape)
        return (places > start) & (places < start + extent)

    covered = inside(height, (1, height, 1, 1)) & inside(width, (1, 1, width, 1))
    covered = covered & (_uniform((count, 1, 1, 1), 0, 1, seed) < share)
    return ops.where(covered, _uniform((count, 1, 1, 1), 0, 100, seed), lightness)
