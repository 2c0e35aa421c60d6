"""A photo in, a photo out, at its own size."""

import logging
import threading
from pathlib import Path

import keras
import numpy as np
from keras import ops

from colorlib import ColorlibError, framing, photos, presets
from colorlib.embedding import DEFAULT_BACKBONE, shared_embedder
from colorlib.files import first_line
from colorlib.model import get_architecture, jit_compile

# A program is compiled for each shape of photo on purpose; TensorFlow would warn of it.
logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())


class Forward(keras.Model):
    """Lightness in, ab at the network's resolution out: one program for one shape of photo."""

    def __init__(self, network, card):
        super().__init__(name="forward", dtype="float32")
        self.network, self.architecture = network, get_architecture(card["network"])
        self.counts = np.array(card["colors"]["ab_counts"])
        self.compile(jit_compile=jit_compile())

    def call(self, inputs, training=False):
        return self.architecture.decode(self.raw(inputs), self.counts, inputs["vividness"])

    def raw(self, inputs):
        """What the network itself gives."""
        told = self.architecture.inputs(inputs["lightness"], inputs.get("embedding"))
        return self.network(told, training=False)


class Colorizer:
    """Colors photos with a trained network; any number of threads may use it.

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

    batch = 8  # Photos that go through the network at a time.

    def __init__(self, network, card):
        self.network, self.card = network, card
        self.architecture = get_architecture(card["network"])
        self.working_size = card["working_size"]
        self._compiled, self._lock = {}, threading.Lock()
        self.embedder = self._embedder(card) if self.architecture.embedded else None

    @staticmethod
    def _embedder(card):
        record = card["embedding"]
        own = weights = card["config"].get("backbone_weights")
        if weights and not Path(weights).is_file():
            weights = None  # On another machine they may come from COLORLIB_WEIGHTS.
        embedder = shared_embedder(record["backbone"], weights)
        if embedder.digest != record["weights_sha256"]:
            advice = "give the same file through COLORLIB_WEIGHTS"
            if weights or record["backbone"] == DEFAULT_BACKBONE:  # It is not asked.
                advice = f"bring back {own}" if own else "use the colorlib that trained it"
            raise ColorlibError(
                f"{card['name']} was trained with other weights of {record['backbone']} than "
                f"those found: {advice}"
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
        if precision not in presets.PRECISIONS:
            raise ColorlibError(
                f"precision must be {' or '.join(map(repr, presets.PRECISIONS))}. "
                f"Received: {precision!r}"
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
        sources = list(map(photos.as_rgb, images))
        maps = self.predict_maps(list(map(self.prepare_photo, sources)), vividness=vividness)
        return list(map(framing.color, sources, maps))

    @property
    def vividness(self):
        """float or None. The default of that knob; None where the network has none."""
        return presets.default_vividness(self.card)

    def embed(self, lightness):
        """What the network is told of lightness arrays: the standardized embeddings (B, size)."""
        return self.standardize(self.embedder(lightness))

    def standardize(self, embeddings):
        """Raw embeddings (B, size), arrays or tensors, as the network was trained with them."""
        record = self.card["embedding"]
        return (embeddings - record["mean"]) / record["deviation"]

    def predict_ab(self, lightness, embeddings=None, vividness=None):
        """The predicted color of lightness arrays.

        Args:
            lightness: list of float arrays (H, W), L in 0..100.
            embeddings: float array (B, size) in the place of the photos' own (`embed`), or None.
            vividness: as for `colorize`.

        Returns:
            list of float32 arrays (H, W, 2): ab in Lab units, resized to each photo.
        """
        maps = self.predict_maps(list(map(self.prepare, lightness)), embeddings, vividness)
        return [
            framing.enlarge(ab, *plane.shape) for ab, plane in zip(maps, lightness, strict=True)
        ]

    def predict_maps(self, prepared, embeddings=None, vividness=None):
        """The predicted color of prepared photos, as small as the network gives it.

        Those of one shape go through the network together.

        Args:
            prepared: list of Prepared.
            embeddings, vividness: as for `predict_ab`.

        Returns:
            list of float32 arrays (h, w, 2): ab in Lab units. `enlarge` brings them to a photo's
            size.
        """
        vividness = presets.vividness(self.card["name"], self.vividness, vividness)
        groups = {}
        for index, photo in enumerate(prepared):
            groups.setdefault(photo.plane.shape, []).append(index)
        result = [None] * len(prepared)
        for group in groups.values():
            for start in range(0, len(group), self.batch):
                indices = group[start : start + self.batch]
                batch = [prepared[i] for i in indices]
                told = None if embeddings is None else embeddings[indices]
                for index, ab in zip(indices, self._predict(batch, told, vividness), strict=True):
                    result[index] = prepared[index].color(ab)
        return result

    def _predict(self, batch, embeddings, vividness):
        """The color of prepared photos of one shape: (B, h, w, 2)."""
        inputs = {"lightness": np.stack([photo.plane for photo in batch])[..., None]}
        inputs["vividness"] = np.full((len(batch), 1, 1, 1), vividness, "float32")
        shape = batch[0].plane.shape
        with self._lock:  # Keras' predict is for one thread at a time.
            if self.architecture.embedded:
                if embeddings is None:
                    squares = np.stack([photo.square for photo in batch])
                    embeddings = self.standardize(self.embedder.embed(squares))
                inputs["embedding"] = embeddings.astype("float32")
            if shape not in self._compiled:  # A program for each: shapes are fixed in a program.
                self._compiled[shape] = Forward(self.network, self.card)
            return self._compiled[shape].predict_on_batch(inputs)

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
        presets.vividness(self.card["name"], self.vividness, 0.0)  # refuses those without
        prepared = self.prepare(lightness)
        inputs = self.architecture.inputs(prepared.plane[None, ..., None])
        shares = ops.softmax(self.network(inputs, training=False), axis=-1)
        return prepared.crop(ops.convert_to_numpy(shares)[0])

    @property
    def square(self):
        """int or None. Side of what its embedder sees, px; None where it has none."""
        return self.embedder.image_size if self.architecture.embedded else None

    def prepare(self, lightness):
        """A photo's L (H, W) in 0..100 as the network sees it: `framing.Prepared`."""
        return framing.frame(lightness, self.working_size, self.square)

    def prepare_photo(self, rgb):
        """The same of a photo (H, W, 3): uint8 or uint16 sRGB."""
        return framing.frame_photo(rgb, self.working_size, self.square)
