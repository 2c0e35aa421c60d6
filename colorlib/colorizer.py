"""A photo in, a photo out, at its own size."""

import logging
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
from keras import ops
from PIL import Image

from colorlib import ColorlibError, cards, lab, metrics, photos
from colorlib.embedding import shared_embedder
from colorlib.model import get_network, jit_compile

# A program is compiled for each shape of photo on purpose; TensorFlow would warn of it.
logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())

_STRIP = 1 << 20  # Pixels whose Lab is in memory at a time.
_BATCH = 8  # Photos that go through the network at a time.


def _strips(height, width):
    rows = max(1, _STRIP // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def lightness_of(rgb):
    """L of a photo: (H, W, 3) uint8 or uint16 sRGB -> float32 (H, W) in 0..100."""
    scale = np.float32(1 / np.iinfo(rgb.dtype).max)
    return np.concatenate(
        [lab.rgb_to_lab(rgb[rows] * scale)[..., 0] for rows in _strips(*rgb.shape[:2])]
    )


def recombine(lightness, ab, dtype=np.uint8):
    """Puts color under a lightness that stays as it is.

    Colors outside sRGB lose chroma until they fit, at constant L and hue; clipping RGB instead
    would move L by up to 20 units.

    Args:
        lightness: float array (H, W). L in 0..100.
        ab: float array (H, W, 2), in Lab units.
        dtype: np.uint8 or np.uint16. Defaults to uint8.

    Returns:
        sRGB array (H, W, 3) of that type.
    """
    top = np.iinfo(dtype).max
    output = np.empty((*lightness.shape, 3), dtype)
    for rows in _strips(*lightness.shape):
        color = np.concatenate([lightness[rows, :, None], ab[rows]], axis=-1).astype("float32")
        outside = ~lab.in_gamut(color)
        if outside.any():
            color[outside] = lab.fit_gamut(color[outside])
        output[rows] = np.rint(lab.lab_to_rgb(color) * top).astype(dtype)
    return output


def _resize(plane, height, width, method):
    return np.asarray(Image.fromarray(plane).resize((width, height), method))


class _Forward(keras.Model):
    """Lightness in, ab at the network's resolution out: one program for one shape of photo."""

    def __init__(self, network, card):
        super().__init__(name="forward", dtype="float32")
        self.network, self.spec = network, get_network(card["network"])
        self.counts = np.array(card["colors"]["ab_counts"])
        self.compile(jit_compile=jit_compile())

    def call(self, inputs, training=False):
        output = self.network(
            self.spec.inputs(inputs["lightness"], inputs.get("embedding")), training=False
        )
        return self.spec.decode(output, self.counts, inputs["vividness"])


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
        self.spec = get_network(card["network"])
        self.working_size = card["working_size"]
        self._compiled = {}
        self.embedder = self._embedder(card) if self.spec.embedded else None

    @staticmethod
    def _embedder(card):
        wanted = card["embedding"]
        weights = card["config"].get("backbone_weights")
        if weights and not Path(weights).is_file():
            weights = None  # On another machine they may come from COLORLIB_WEIGHTS.
        embedder = shared_embedder(wanted["backbone"], weights)
        if embedder.digest != wanted["weights_sha256"]:
            raise ColorlibError(
                f"{card['name']} was trained with other weights of {wanted['backbone']} than "
                "those found: give the same file through COLORLIB_WEIGHTS"
            )
        return embedder

    @classmethod
    def from_preset(cls, name=None, precision="float32"):
        """Loads a packaged preset, or the result of a training run.

        Args:
            name: str, path of a run folder, or None (the default preset, `presets()[0]`).
            precision: str. `"float32"` or `"mixed_bfloat16"`, of the network; the backbone and
                Lab stay in float32. Defaults to `"float32"`.

        Raises:
            ColorlibError: unknown preset, damaged weights, or a backbone without weights.
        """
        if precision not in ("float32", "mixed_bfloat16"):
            raise ColorlibError(
                f"precision must be 'float32' or 'mixed_bfloat16'. Received: {precision!r}"
            )
        folder = cards.preset_folder(name)
        try:
            card = cards.load_card(folder)
            size = card["embedding"].get("size")
            network = get_network(card["network"]).build(size, dtype=precision)
            network.load_weights(folder / cards.WEIGHTS)
            return cls(network, card)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ColorlibError(
                f"{folder}: damaged card or weights ({reason}); restore the folder"
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
        lightness = [lightness_of(rgb) for rgb in sources]
        colors = self.predict_ab(lightness, vividness=vividness)
        return [
            recombine(plane, ab, rgb.dtype)
            for rgb, plane, ab in zip(sources, lightness, colors, strict=True)
        ]

    def _vividness(self, value):
        if not self.spec.vividness:
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
        wanted = self.card["embedding"]
        return (self.embedder(lightness) - wanted["mean"]) / wanted["deviation"]

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
        if self.spec.embedded and embeddings is None:
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
                planes = [
                    _resize(np.ascontiguousarray(ab[..., c]), height, width, Image.BICUBIC)
                    for c in range(2)
                ]
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
        logits = self.network(self.spec.inputs(plane), training=False)
        return ops.convert_to_numpy(ops.softmax(logits, axis=-1))[0]

    def _working(self, plane):
        """L with its short side at the working size, both a multiple of the network's stride."""
        height, width = plane.shape
        scale = self.working_size / min(height, width)
        # A strip of 10,000 x 10 px must not become a million columns: the long side is bounded.
        longest, stride = 4 * self.working_size, self.spec.stride
        size = [
            int(np.clip(stride * round(n * scale / stride), stride, longest))
            for n in (height, width)
        ]
        return np.clip(_resize(plane, *size, Image.BICUBIC), 0.0, 100.0)


def score(colorizer, paths, *, vividness=None, floors=None, batch=16, progress=None):
    """Scores a colorizer, and the floors, on photos whose colors are known.

    Args:
        colorizer: Colorizer.
        paths: list of paths.
        vividness: as for `Colorizer.colorize`.
        floors: dict of DataFrames or None. Of an earlier call on these photos: its floors are
            returned again, without scoring them. Defaults to None.
        batch: int. Photos read at a time. Defaults to 16.
        progress: callable(done, total) or None.

    Returns:
        dict of DataFrames by method: `"model"`, `"gray"`, `"mean ab"`; each has a row per photo
        (`metrics.score_photo`) and its name in `file`.
    """
    colors = colorizer.card["colors"]
    frequency = np.array(colors["ab_counts"], "float64")
    rows = {"model": []} if floors else {"model": [], "gray": [], "mean ab": []}
    for start in range(0, len(paths), batch):
        chunk = paths[start : start + batch]
        truths = [photos.to_uint8(photos.read(path)) for path in chunk]
        for path, truth, output in zip(
            chunk, truths, colorizer.colorize_batch(truths, vividness), strict=True
        ):
            outputs = {"model": output}
            if not floors:
                outputs |= metrics.floors(
                    truth, colors["mean_ab"], lambda rgb, ab: recombine(lightness_of(rgb), ab)
                )
            for method, rgb in outputs.items():
                row = metrics.score_photo(rgb, truth, frequency)
                rows[method].append({"file": getattr(path, "name", str(path)), **row})
        if progress:
            progress(min(start + batch, len(paths)), len(paths))
    return (floors or {}) | {method: pd.DataFrame(table) for method, table in rows.items()}


def shrink_weights(source, target):
    """Stores a `.weights.h5` as float16, in half the bytes; Keras loads it into any precision."""
    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                group = new.require_group(name)
            else:
                half = item.dtype.kind == "f"
                group = new.create_dataset(name, data=item[()].astype("f2") if half else item[()])
            for key, value in item.attrs.items():
                group.attrs[key] = value

        for key, value in old.attrs.items():
            new.attrs[key] = value
        old.visititems(copy)


def package(run, target, evaluate=(), working_size=None, vividness=None):
    """Makes a preset of a training run: float16 weights, a card with scores, the manifest.

    Args:
        run: path of a finished run folder.
        target: path of the preset's folder, which becomes its name; made, or overwritten but for
            the card's `about`.
        evaluate: folders of photos to score on; each folder's name is the set's name.
        working_size: int or None. Short side at use, px; None keeps the run's.
        vividness: float in 0..1 or None. The default of that knob; None keeps the run's.

    Returns:
        dict: the card, with the metrics of each set in `results`, where there is that knob at a
        vividness of 0 as well. `scores.csv` beside it has a row per photo, set and method, at the
        default vividness.

    Raises:
        ColorlibError: `run` is no run folder, or a folder holds no photos.
    """
    run, target = cards.preset_folder(run), Path(target)
    if target.resolve() == run.resolve():
        raise ColorlibError(f"{target}: is the run itself; give another folder for the preset")
    sources = {Path(folder).name: photos.find(folder) for folder in evaluate}
    target.mkdir(parents=True, exist_ok=True)
    card = {**cards.load_card(run), "name": target.name}
    with suppress(ColorlibError, ValueError, KeyError):  # What was written by hand stays.
        card = {"about": cards.load_card(target)["about"], **card}
    card["working_size"] = working_size or card["working_size"]
    if vividness is not None:
        if not get_network(card["network"]).vividness or not 0 <= vividness <= 1:
            raise ColorlibError(
                "vividness must be in 0..1, of a network that has that knob. "
                f"Received: {vividness} for {card['network']}"
            )
        card["vividness"] = vividness
    shutil.copyfile(run / cards.MANIFEST, target / cards.MANIFEST)
    shrink_weights(run / cards.WEIGHTS, target / cards.WEIGHTS)
    card["weights_sha256"] = cards.sha256(target / cards.WEIGHTS)
    cards.write_card(target, card)
    if sources:
        colorizer, tables, card["results"] = Colorizer.from_preset(target), [], {}
        for name, paths in sources.items():
            default = score(colorizer, paths)
            for method, table in default.items():
                tables.append(table.assign(set=name, method=method))
            at = {card.get("vividness"): default}
            if colorizer.spec.vividness:
                at = {0: score(colorizer, paths, vividness=0, floors=default), **at}
            card["results"][name] = [
                {"vividness": value} | metrics.gains(scored) for value, scored in at.items()
            ]
        cards.write_card(target, card)
        scores = pd.concat(tables)[["set", "method", *tables[0].columns[:-2]]]
        scores.to_csv(target / cards.SCORES, index=False, float_format="%.6g", lineterminator="\n")
    return card
