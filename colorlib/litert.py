"""Presets as LiteRT files: they color at once, without Keras, in a tenth of the memory.

LiteRT (formerly TensorFlow Lite) runs a fixed program for fixed shapes. `export` makes a folder of
a preset, with a file for each of the `framing.working_shapes`, whose weights are 16-bit floats. (In
one file they would share the weights; but whoever opens it gets the memory of all its programs.)
The folder is made once, on the user's machine, in the cache. Who decodes the network's output
finds the raw files there, too.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

from colorlib import ColorlibError, files, framing, presets, quiet

_EMBED = "embed.tflite"
_VERSION = 2  # Part of the folder's name: raise it when the exported programs change.


def exported(name=None, size=None, raw=False):
    """The LiteRT files of a preset, made if the cache has none.

    Args:
        name: str, path or None, as for `presets.preset_folder`.
        size: int or None. The working size, px. Defaults to the preset's.
        raw: bool. As for `export`.

    Returns:
        Path of their folder.
    """
    folder = presets.preset_folder(name)
    card = presets.load_card(folder)
    size = size or card["working_size"]
    # All of the card: the scale of embeddings and the colors are part of the programs.
    known = json.dumps(card, sort_keys=True) + files.sha256(folder / presets.WEIGHTS)
    digest = hashlib.sha256(known.encode()).hexdigest()[:16]
    path = files.cache_folder() / "litert" / f"{card['name']}-{digest}-{size}-{_VERSION}"
    record = path / record_file(raw)
    if not record.exists():
        print(f"colorlib: preparing {card['name']} for this machine (once)", file=sys.stderr)
        with files.alone(path):
            if not record.exists():  # Another process may have made it while this one waited.
                export(folder, path, size, raw)
    return path


def export(name, folder, size=None, raw=False):
    """Writes a preset as LiteRT files.

    Args:
        name: str, path or None, as for `presets.preset_folder`.
        folder: path of the folder for them. Its `record_file` tells how they are used. A backbone's
            file that is there already is taken for that of this preset.
        size: int or None. The working size, px. Defaults to the preset's.
        raw: bool. Whether the files give the network's own output (`pyramid`: logits; `paper`:
            ab / 127), of which whoever runs them makes a color, and have no input `vividness`.
            Defaults to False.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ColorlibError("A LiteRT file is made with TensorFlow: unset KERAS_BACKEND")
    from colorlib.colorizer import Colorizer, Forward

    colorizer = Colorizer.from_preset(name)
    forward, embedder = Forward(colorizer.network, colorizer.card), colorizer.embedder
    size = size or colorizer.working_size
    record = {"name": colorizer.card["name"], "working_size": size, "square": None}
    record["vividness"] = colorizer.vividness
    # Whatever is missing when this is interrupted: the record comes last.
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if embedder:
        record["square"] = embedder.image_size
        shape = (1, embedder.image_size, embedder.image_size)

        def embed(square):
            return colorizer.standardize(embedder.trace(square))

        if not (folder / _EMBED).exists():
            _convert(embed, embedder.model, folder / _EMBED, square=shape)
    run = forward.raw if raw else forward
    for height, width in framing.working_shapes(size):
        shapes = {"lightness": (1, height, width, 1), "vividness": (1, 1, 1, 1)}
        if embedder:
            shapes["embedding"] = (1, embedder.size)
        if raw:
            del shapes["vividness"]

        def color(**inputs):
            return run(inputs)

        _convert(color, forward, folder / file(height, width, raw), **shapes)
    files.write_atomically(folder / record_file(raw), json.dumps(record))


def _convert(function, model, path, **shapes):
    import keras
    import tensorflow as tf

    weights = [(variable, variable.numpy()) for variable in model.variables]

    def program(**inputs):
        # As constants: with variables the converter takes nearly twice as long.
        with keras.StatelessScope(state_mapping=weights):
            return function(**inputs)

    specs = {name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()}
    traced = tf.function(program, autograph=False).get_concrete_function(**specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    with quiet():
        content = converter.convert()
    files.write_atomically(path, content)


def file(height, width, raw=False):
    """The name of the file for one of the working shapes: str."""
    return f"{'raw' if raw else 'color'}-{height}x{width}.tflite"


def record_file(raw=False):
    """The name of the file that tells how the others are used: str."""
    return "raw.json" if raw else "preset.json"


class LiteColorizer:
    """A preset's LiteRT files behind the methods of a `Colorizer` that color files.

    Any number of threads may use it: each opens a program again while another has it in use.

    Args:
        folder: path of a folder that `export` has made.
        threads: int or None. What a photo is colored with. Defaults to the processor's cores.
    """

    batch = 1  # Photos that go through the network at a time.

    def __init__(self, folder, threads=None):
        self._folder, self._threads = Path(folder), threads or os.cpu_count()
        record = json.loads((self._folder / record_file()).read_text(encoding="utf-8"))
        self.working_size, self.square = record["working_size"], record["square"]
        self.name, self.vividness = record["name"], record["vividness"]
        # At its first use LiteRT tells on stderr that it has found its own fast kernels.
        with quiet():
            first = file(*framing.working_shapes(self.working_size)[1])
            self._idle = {first: [self._open(first)]}

    def prepare_photo(self, rgb):
        """As `Colorizer.prepare_photo`."""
        return framing.frame_photo(rgb, self.working_size, self.square)

    def predict_maps(self, prepared, vividness=None):
        """As `Colorizer.predict_maps`."""
        vividness = presets.vividness(self.name, self.vividness, vividness)
        return [photo.color(self._predict(photo, vividness)) for photo in prepared]

    def _predict(self, photo, vividness):
        inputs = {"lightness": photo.plane[None, ..., None].astype("float32")}
        inputs["vividness"] = np.full((1, 1, 1, 1), vividness, "float32")
        if self.square:
            square = photo.square[None].astype("float32")
            inputs["embedding"] = self._run(_EMBED, square=square)
        return self._run(file(*photo.plane.shape), **inputs)[0]

    def _open(self, name):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(self._folder / name), num_threads=self._threads)
        interpreter.allocate_tensors()
        return interpreter.get_signature_runner()

    def _run(self, name, **inputs):
        idle = self._idle.setdefault(name, [])
        try:
            program = idle.pop()
        except IndexError:
            program = self._open(name)
        known = program.get_input_details()  # The converter drops an input without a use.
        (output,) = program(**{key: inputs[key] for key in known}).values()
        idle.append(program)
        return output
