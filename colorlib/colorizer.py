"""A photo in, a photo out, at its own size."""

import logging
from pathlib import Path

import keras
import numpy as np
from keras import ops

from colorlib import ColorlibError, lab, photos, presets
from colorlib.embedding import shared_embedder
from colorlib.files import first_line
from colorlib.model import get_architecture, jit_compile

# A program is compiled for each shape of photo on purpose; TensorFlow would warn of it.
logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())

_BATCH = 8  # Photos that go through the network at a time.


class _Forward(keras.Model):
    """Lightness in, ab at the network's resolution out: one program for one shape of photo."""

    def __init__(self, network, card):
        super().__init__(name="forward", dtype="float32")
        self.network, self.architecture = network, get_architecture(card["network"])
        self.counts = np.array(card["colors"]["ab_counts"])
        self.compile(jit_compile=jit_compile())

    def call(self, inputs, training=False):
        output = self.network(
            self.architecture.inputs(inputs["lightness"], inputs.get("embedding")), training=False
        )
        return self.architecture.decode(output, self.counts, inputs["vividness"])


class Colorizer:
    """Colors photos with a trained network.

    The photo's own L is kept at full size; the network sees it at its working size and gives a and
    b, which are resized to the photo and put beside that L.

    Args:
        network: keras.Model from `colorlib.model`, with its weights.
        card: dict. The preset's card: network, embedding, working size, colors, and `vividness`,
            the default of that knob (0 where it is missing).

    Example:

        colorizer = Colorizer.from_preset()
        rgb = colorizer.colorize("old.jpg")   # uint8 (H, W, 3)
        pale = colorizer.colorize("old.jpg", vividness=0)
    """

    def __init__(self, network, card):
        self.network, self.card = network, card
        self.architecture = get_architecture(card["network"])
        self.working_size = card["working_size"]
        self._compiled = {}
        self.embedder = self._embedder(card) if self.architecture.embedded else None

    @staticmethod
    def _embedder(card):
        record = card["embedding"]
        weights = card["config"].get("backbone_weights")
        if weights and not Path(weights).is_file():
            weights = None  # On another machine they may come from COLORLIB_WEIGHTS.
        embedder = shared_embedder(record["backbone"], weights)
        if embedder.digest != record["weights_sha256"]:
            raise ColorlibError(
                f"{card['name']} was trained with other weights of {record['backbone']} than "
                "those found: give the same file through COLORLIB_WEIGHTS"
            )
        return embedder

    @classmethod
    def from_preset(cls, name=None, precision="float32"):
        """Loads a packaged preset, or the result of a training run.

        Args:
            name: str, path of a run folder, or None (the default preset, `preset_names()[0]`).
            precision: str. `"float32"` or `"mixed_bfloat16"`, of the network; the backbone and
                Lab stay in float32. Defaults to `"float32"`.

        Raises:
            ColorlibError: unknown preset, damaged weights, or a backbone without weights.
        """
        if precision not in ("float32", "mixed_bfloat16"):
            raise ColorlibError(
                f"precision must be 'float32' or 'mixed_bfloat16'. Received: {precision!r}"
            )
        folder = presets.preset_folder(name)
        try:
            card = presets.load_card(folder)
            size = card["embedding"].get("size")
            network = get_architecture(card["network"]).build(size, dtype=precision)
            network.load_weights(folder / presets.WEIGHTS)
            return cls(network, card)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ColorlibError(
                f"{folder}: damaged card or weights ({first_line(error)}); restore the folder"
            ) from None

    def colorize(self, image, vividness=None):
        """Colors one photo.

        Args:
            image: path, PIL image, or array (H, W), (H, W, 1) or (H, W, 3): uint8, uint16, or
                float in 0..1. Only its lightness is used.
            vividness: float in 0..1 or None. From the expected color, which is cautious, to vivid
                ones, which are more often wrong; None is the preset's default. Only for presets
                that give a distribution over colors.

        Returns:
            sRGB array (H, W, 3) of the same height and width: uint16 for 16-bit input, else uint8.

        Raises:
            ColorlibError: a file that can't be read, or a vividness that the preset can't have.
        """
        return self.colorize_batch([image], vividness)[0]

    def colorize_batch(self, images, vividness=None):
        """Colors several photos; those of one shape go through the network together.

        Args:
            images: list of images as for `colorize`.
            vividness: as for `colorize`.

        Returns:
            list of sRGB arrays, in the order of `images`.
        """
        sources = [photos.as_rgb(image) for image in images]
        lightness = [lab.lightness(rgb) for rgb in sources]
        colors = self.predict_ab(lightness, vividness=vividness)
        return [
            lab.recombine(plane, ab, rgb.dtype)
            for rgb, plane, ab in zip(sources, lightness, colors, strict=True)
        ]

    def _vividness(self, value):
        if not self.architecture.vividness:
            if value is None:
                return 0.0
            raise ColorlibError(
                f"{self.card['name']} gives one color and no distribution, so it has no vividness: "
                "leave it out, or choose a preset of the network pyramid"
            )
        value = self.card.get("vividness", 0.0) if value is None else value
        if not 0 <= value <= 1:
            raise ColorlibError(f"vividness must be in 0..1. Received: {value}")
        return float(value)

    def embed(self, lightness):
        """What the network is told of lightness arrays: the standardized embeddings (B, size)."""
        record = self.card["embedding"]
        return (self.embedder(lightness) - record["mean"]) / record["deviation"]

    def predict_ab(self, lightness, embeddings=None, vividness=None):
        """The predicted color of lightness arrays.

        Args:
            lightness: list of float arrays (H, W), L in 0..100.
            embeddings: float array (B, size) in the place of the photos' own (`embed`), or None.
            vividness: as for `colorize`.

        Returns:
            list of float32 arrays (H, W, 2): ab in Lab units, resized to each photo.
        """
        vividness = self._vividness(vividness)
        if not lightness:
            return []
        small = [self._working(plane) for plane in lightness]
        if self.architecture.embedded and embeddings is None:
            embeddings = self.embed(lightness)
        groups = {}
        for index, plane in enumerate(small):
            groups.setdefault(plane.shape, []).append(index)
        batches = [
            group[start : start + _BATCH]
            for group in groups.values()
            for start in range(0, len(group), _BATCH)
        ]
        result = [None] * len(lightness)
        for indices in batches:
            inputs = {"lightness": np.stack([small[i] for i in indices])[..., None]}
            inputs["vividness"] = np.full((len(indices), 1, 1, 1), vividness, "float32")
            if embeddings is not None:
                inputs["embedding"] = embeddings[indices].astype("float32")
            shape = small[indices[0]].shape
            if shape not in self._compiled:  # A program for each: shapes are fixed in a program.
                self._compiled[shape] = _Forward(self.network, self.card)
            maps = self._compiled[shape].predict_on_batch(inputs)
            for index, ab in zip(indices, maps, strict=True):
                height, width = lightness[index].shape
                planes = [photos.resize(ab[..., c], height, width) for c in range(2)]
                result[index] = np.clip(np.stack(planes, axis=-1), lab.AB_MIN, lab.AB_MAX)
        return result

    def distribution(self, lightness):
        """How probable each color is at each place, before `vividness`.

        Args:
            lightness: float array (H, W), L in 0..100.

        Returns:
            float32 array (h, w, Q), of the colors `model.ab_bins()`: a grid over the photo, of
            the working size over the network's `scale`. Its logarithm is what
            `model.mean_of_bins` makes a color of.

        Raises:
            ColorlibError: the preset gives one color and no distribution.
        """
        self._vividness(0.0)  # Refuses presets without a distribution.
        plane = self._working(lightness)[None, ..., None]
        logits = self.network(self.architecture.inputs(plane), training=False)
        return ops.convert_to_numpy(ops.softmax(logits, axis=-1))[0]

    def _working(self, plane):
        """L with its short side at the working size, both a multiple of the network's stride."""
        height, width = plane.shape
        scale = self.working_size / min(height, width)
        # A strip of 10,000 x 10 px must not become a million columns: the long side is bounded.
        longest, stride = 4 * self.working_size, self.architecture.stride
        size = [
            int(np.clip(stride * round(n * scale / stride), stride, longest))
            for n in (height, width)
        ]
        return np.clip(photos.resize(plane, *size), 0.0, 100.0)
