"""Presets as LiteRT files: they color at once, without Keras, in a tenth of the memory.

LiteRT (formerly TensorFlow Lite) runs a fixed program for fixed shapes. `export` makes one file of
a preset, with a program for each of the `framing.working_shapes`; they share the weights, which are
stored as 16-bit floats. The file is made once, on the user's machine, into the cache folder.
"""

import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from colorlib import ColorlibError, files, framing, presets, quiet

_VERSION = 1  # Part of the file name: raise it when the exported programs change.


def exported(name=None, size=None):
    """The LiteRT file of a preset, made if the cache has none.

    Args:
        name: str, path or None, as for `presets.preset_folder`.
        size: int or None. The working size, px. Defaults to the preset's.

    Returns:
        Path of the file. `<file>.json` beside it tells how it is used.
    """
    folder = presets.preset_folder(name)
    card = presets.load_card(folder)
    size = size or card["working_size"]
    digest = files.sha256(folder / presets.WEIGHTS)[:16]
    path = files.cache_folder() / "litert" / f"{card['name']}-{digest}-{size}-{_VERSION}.tflite"
    if not path.exists():
        print(f"colorlib: preparing {card['name']} for this machine (once)", file=sys.stderr)
        export(folder, path, size)
    return path


def export(name, path, size=None):
    """Writes a preset as a LiteRT file.

    Args:
        name: str, path or None, as for `presets.preset_folder`.
        path: path of the file. `<file>.json` is written beside it.
        size: int or None. The working size, px. Defaults to the preset's.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ColorlibError("A LiteRT file is made with TensorFlow: unset KERAS_BACKEND")
    import tensorflow as tf

    from colorlib.colorizer import Colorizer, Forward

    colorizer = Colorizer.from_preset(name)
    forward, embedder = Forward(colorizer.network, colorizer.card), colorizer.embedder
    size = size or colorizer.working_size
    record = {"name": colorizer.card["name"], "working_size": size, "square": None}
    record["vividness"] = colorizer.vividness
    module = tf.Module()
    # SavedModel keeps what it finds here; the layers themselves can't be saved for unknown sizes.
    module.weights = [variable.value for variable in colorizer.network.variables]
    signatures = {}
    if embedder:
        record["square"] = embedder.image_size
        module.backbone = [variable.value for variable in embedder.model.variables]
        shape = (1, embedder.image_size, embedder.image_size)

        def embed(square):
            return {"embedding": colorizer.standardize(embedder.trace(square))}

        signatures["embed"] = _program(tf, embed, square=shape)
    for height, width in framing.working_shapes(size):
        shapes = {"lightness": (1, height, width, 1), "vividness": (1, 1, 1, 1)}
        if embedder:
            shapes["embedding"] = (1, embedder.size)

        def color(**inputs):
            return {"ab": forward(inputs)}

        signatures[_key(height, width)] = _program(tf, color, **shapes)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(_record_of(path), json.dumps(record))
    files.write_atomically(path, content)


def _program(tf, function, **shapes):
    specs = {name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()}
    return tf.function(function).get_concrete_function(**specs)


def _key(height, width):
    return f"color_{height}x{width}"


def _record_of(path):
    return path.with_name(path.name + ".json")


class LiteColorizer:
    """A preset's LiteRT file behind the methods of a `Colorizer` that color files.

    Args:
        path: path of a file that `export` has made.
        threads: int or None. Defaults to the processor's cores.
    """

    batch = 1  # Photos that go through the network at a time.

    def __init__(self, path, threads=None):
        from ai_edge_litert.interpreter import Interpreter

        record = json.loads(_record_of(Path(path)).read_text(encoding="utf-8"))
        self.working_size, self.square = record["working_size"], record["square"]
        self.name, self.vividness = record["name"], record["vividness"]
        self._interpreter = Interpreter(str(path), num_threads=threads or os.cpu_count())
        self._runners = {}

    def prepare(self, lightness):
        """As `Colorizer.prepare`."""
        return framing.frame(lightness, self.working_size, self.square)

    def prepare_photo(self, rgb):
        """As `Colorizer.prepare_photo`."""
        return framing.frame_photo(rgb, self.working_size, self.square)

    def predict_maps(self, prepared, vividness=None):
        """As `Colorizer.predict_maps`."""
        vividness = presets.vividness(self.name, self.vividness, vividness)
        return [photo.crop(self._predict(photo, vividness)) for photo in prepared]

    def _predict(self, photo, vividness):
        inputs = {"lightness": photo.plane[None, ..., None].astype("float32")}
        inputs["vividness"] = np.full((1, 1, 1, 1), vividness, "float32")
        if self.square:
            square = photo.square[None].astype("float32")
            inputs["embedding"] = self._run("embed", square=square)["embedding"]
        return self._run(_key(*photo.plane.shape), **inputs)["ab"][0]

    def _run(self, key, **inputs):
        # At the first use of each program LiteRT tells that it has found its own fast kernels.
        with nullcontext() if key in self._runners else quiet():
            if key not in self._runners:
                self._runners[key] = self._interpreter.get_signature_runner(key)
            runner = self._runners[key]
            known = runner.get_input_details()  # The converter drops an input without a use.
            return runner(**{name: value for name, value in inputs.items() if name in known})
