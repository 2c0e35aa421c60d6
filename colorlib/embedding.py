"""A frozen ImageNet backbone: gray photo -> embedding.

The paper feeds the gray photo, in three equal channels, to Inception-ResNet-v2 and takes the
logits before the softmax (section 2.1). Here the backbone is a name:

- `EfficientNetLite2`: packaged with this library, the default. 1000 logits, 260 px.
- `InceptionResNetV2`: the paper's. 1000 logits, 299 px; Keras downloads its 215 MB once.
- any other model of `keras.applications`, by its name.

A machine without network takes the files from the folder that `COLORLIB_WEIGHTS` names.
"""

import csv
import hashlib
import os
import re
import sys
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import keras
import numpy as np
from keras import layers

from colorlib import ASSETS, ColorlibError, files, lab, presets
from colorlib.files import first_line
from colorlib.framing import center_square

DEFAULT_BACKBONE = "EfficientNetLite2"
PAPER_BACKBONE = "InceptionResNetV2"
PACKAGED = ASSETS / "backbones"

# EfficientNet-Lite2 (width 1.1, depth 1.2): repeats, first stride, kernel, expansion, channels.
_LITE2_STAGES = (
    (1, 1, 3, 1, 16),
    (3, 2, 3, 6, 24),
    (3, 2, 5, 6, 48),
    (4, 2, 3, 6, 88),
    (4, 1, 5, 6, 120),
    (5, 2, 5, 6, 208),
    (1, 1, 3, 6, 352),
)


def efficientnet_lite2(dtype=None):
    """EfficientNet-Lite2 with its 1000-class head, for photos scaled as `(x - 127) / 128`.

    The network of Tan and Le 2019 (arXiv 1905.11946) as Google simplified it for mobile devices:
    no squeeze-and-excitation, ReLU6 activations. It is frozen here, so each batch normalization is
    folded into its convolution, which spares a third of the time.

    Args:
        dtype: Keras dtype or policy. Defaults to the global one.

    Returns:
        keras.Model: (B, H, W, 3), made for 260 x 260 px -> (B, 1000) logits.
    """

    def conv(x, filters, kernel, name, strides=1, activation=True):
        options = {"strides": strides, "padding": "same", "name": name, "dtype": dtype}
        if filters is None:
            x = layers.DepthwiseConv2D(kernel, **options)(x)
        else:
            x = layers.Conv2D(filters, kernel, **options)(x)
        return layers.ReLU(6.0, name=f"{name}_relu6", dtype=dtype)(x) if activation else x

    inputs = keras.Input((None, None, 3))
    x = conv(inputs, 32, 3, "conv_stem", 2)
    index = 0
    for repeats, first_stride, kernel, expansion, filters in _LITE2_STAGES:
        for repeat in range(repeats):
            strides = first_stride if repeat == 0 else 1
            block, residual = f"blocks_{index}_", x
            if expansion > 1:
                x = conv(x, x.shape[-1] * expansion, 1, block + "expand_conv")
            x = conv(x, None, kernel, block + "depthwise_conv", strides)
            x = conv(x, filters, 1, block + "project_conv", activation=False)
            if strides == 1 and residual.shape[-1] == filters:
                x = layers.Add(name=block + "add", dtype=dtype)([x, residual])
            index += 1
    x = conv(x, 1280, 1, "conv_head")
    x = layers.GlobalAveragePooling2D(name="pool", dtype=dtype)(x)
    logits = layers.Dense(1000, name="fc", dtype=dtype)(x)
    return keras.Model(inputs, logits, name="efficientnet_lite2")


def lite2_body(dtype=None):
    """EfficientNet-Lite2 without its classifier: its maps at four scales, in part trainable.

    The lower blocks, 0 to 7, are frozen: they find edges and textures, which are the same in gray.
    Of blocks 8 to 20 and the head the 1 x 1 convolutions are trainable. The depthwise ones hold 5 %
    of the weights there, and their gradients would take a third of a training step on a CPU.

    Args:
        dtype: Keras dtype or policy. Defaults to the global one.

    Returns:
        keras.Model: (B, H, W, 3), scaled as `(x - 127) / 128`, H and W multiples of 32 -> dict of
        tensors in 0..6: `stride_4` (B, H/4, W/4, 144), `stride_8` (..., 288), `stride_16`
        (..., 720), `stride_32` (..., 1280).
    """
    classifier = efficientnet_lite2(dtype)
    for layer in classifier.layers:  # Layers keep their names: `start_body` goes by them.
        block = re.match(r"blocks_(\d+)_(expand|project)_conv$", layer.name)
        layer.trainable = layer.name == "conv_head" or bool(block) and int(block[1]) >= 8
    taps = {scale: classifier.get_layer(name).output for scale, name in _LITE2_TAPS.items()}
    return keras.Model(classifier.inputs, taps, name="body")


def start_body(body, embedder):
    """Fills a `lite2_body` with the weights of the packaged classifier, an `Embedder`'s."""
    for layer in body.layers:
        if layer.weights:
            layer.set_weights(embedder.model.get_layer(layer.name).get_weights())


# Where the network is about to halve its resolution it has its richest features of that stride:
# the expansions of the first blocks of stages 3, 4 and 6, and the head. Strides 4, 8, 16, 32.
_LITE2_TAPS = {
    "stride_4": "blocks_4_expand_conv_relu6",
    "stride_8": "blocks_7_expand_conv_relu6",
    "stride_16": "blocks_15_expand_conv_relu6",
    "stride_32": "conv_head_relu6",
}


def _applications():
    """Names and constructors of the models in `keras.applications`."""
    members = vars(keras.applications).items()
    return {name: member for name, member in members if name[0].isupper() and callable(member)}


def _plain(text):
    return re.sub(r"[^a-z0-9]", "", text.lower().removeprefix("weights_"))


def _without_top(path):
    """Whether a file lacks the classifier: Keras writes notop, no_top or no-top in its name."""
    return "notop" in _plain(Path(path).name)


@contextmanager
def _float32_policy():
    """The backbone computes in float32 whatever the global policy: its embeddings are cached."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _find_weights(name, names):
    """The file of backbone `name` in the folder COLORLIB_WEIGHTS, by Keras' own file names."""
    folder = os.environ.get("COLORLIB_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise ColorlibError(f"COLORLIB_WEIGHTS={folder}: no such folder; it must hold weight files")
    matches = []
    for path in sorted(Path(folder).glob("*.h5")):
        # resnet50v2_weights….h5 begins with "resnet50" too: the longest model name owns a file.
        owners = [other for other in names if _plain(path.name).startswith(_plain(other))]
        if owners and max(owners, key=lambda other: len(_plain(other))) == name:
            matches.append(path)
    # With the classifier before without: the embedding is the logits where they can be had.
    return min(matches, key=_without_top, default=None)


def _missing(name, reason):
    # The reason is a failed download, and its address ends in the file's name.
    file = re.search(r"[\w.-]+\.h5", reason)
    wanted = file[0] if file else f"Keras' own .h5 file of {name}"
    folder = os.environ.get("COLORLIB_WEIGHTS")
    looked = f"none in COLORLIB_WEIGHTS={folder}; " if folder else ""
    return ColorlibError(
        f"Backbone {name}: no weights ({looked}{reason}). Give them in one of three ways: run once "
        f"with a network, so that Keras downloads them; put {wanted} into a folder and name it in "
        "COLORLIB_WEIGHTS; or pass the file's path as backbone_weights"
    )


class Embedder:
    """A frozen ImageNet classifier that turns lightness into an embedding.

    The network of the paper's section 2.1 with the backbone as a parameter. The center square of
    the photo is resized bicubically to the backbone's input size, its gray value (the sRGB gray of
    the same L) repeated in three channels and preprocessed as that backbone wants.

    Args:
        backbone: str. `"EfficientNetLite2"` (packaged) or the name of a `keras.applications`
            model. Defaults to `"EfficientNetLite2"`.
        weights: path or None. A weights file in place of the packaged, downloaded or
            COLORLIB_WEIGHTS one. Defaults to None.

    Attributes:
        backbone: str. Its name.
        layer: str. `"logits"`, or `"pooled"` where only weights without the classifier exist.
        image_size: int. Side of the backbone's input, px.
        size: int. Length of the embedding.
        digest: str. Hash over the weights; part of every cache key.

    Raises:
        ColorlibError: unknown backbone, or weights that cannot be had.

    Example:

        embedder = Embedder()
        embedding = embedder(lightness)   # (H, W) in 0..100 -> (1, 1000)
    """

    def __init__(self, backbone=DEFAULT_BACKBONE, weights=None):
        self.backbone = backbone
        if weights is not None and not Path(weights).is_file():
            raise ColorlibError(
                f"{weights}: no such weights file for the backbone {backbone}; give the path of one"
            )
        with _float32_policy():
            if backbone == DEFAULT_BACKBONE:
                self._build_packaged(weights or PACKAGED / backbone / presets.WEIGHTS)
            else:
                self._build_application(backbone, weights)
        self.model.trainable = False
        self.size = self.model.output_shape[-1]

    def _build_packaged(self, path):
        self.model = efficientnet_lite2()
        try:
            self.model.load_weights(path)
        except Exception as error:  # A wrong file can raise anything.
            raise ColorlibError(
                f"{path}: not the weights of {self.backbone} ({first_line(error)}); leave "
                "backbone_weights out to use the packaged ones"
            ) from None
        self.layer, self.image_size, self.digest = "logits", 260, files.sha256(path)
        self._preprocess = lambda x: (x - 127.0) / 128.0

    def _build_application(self, name, weights):
        names = _applications()
        if name not in names:
            raise ColorlibError(
                f"Unknown backbone {name!r}: must be {DEFAULT_BACKBONE} or a model of "
                f"keras.applications, such as {PAPER_BACKBONE}, Xception or MobileNetV2"
            )
        path = weights or _find_weights(name, names)
        top = path is None or not _without_top(path)
        options = {"weights": str(path) if path else "imagenet", "include_top": top}
        options |= {"classifier_activation": None} if top else {"pooling": "avg"}
        try:
            self.model = names[name](**options)
        except Exception as error:  # Keras raises bare Exception for a failed download.
            if path is None:
                raise _missing(name, first_line(error)) from None
            raise ColorlibError(
                f"{path}: not the weights of {name} ({first_line(error)}); give Keras' own file"
            ) from None
        self.layer = "logits" if top else "pooled"
        # Without the classifier the size is free: take the classifier's. MobileNetV3 leaves it free
        # even then; its weights are for 224 px.
        free = self.model.input_shape[1] is None
        sized = names[name](weights=None) if free and not top else self.model
        self.image_size = sized.input_shape[1] or 224
        self._preprocess = sys.modules[names[name].__module__].preprocess_input
        digest = hashlib.sha256()
        for array in self.model.get_weights():
            digest.update(np.ascontiguousarray(array).tobytes())
        self.digest = digest.hexdigest()

    @property
    def key(self):
        """str. Names backbone, layer and weights; changes whenever embeddings would."""
        return f"{self.backbone}-{self.layer}-{self.digest[:16]}"

    def prepare(self, lightness):
        """The center square of a photo's lightness at the backbone's size.

        Args:
            lightness: array (H, W). L in 0..100, any size.

        Returns:
            float32 array (image_size, image_size): L in 0..100.
        """
        return center_square(np.asarray(lightness, "float32"), self.image_size)

    def trace(self, prepared):
        """What `embed` does, on a tensor, for a program that holds the backbone."""
        gray = lab.l_to_gray(prepared[..., None]) * 255.0
        rgb = keras.ops.repeat(gray, 3, axis=-1)
        return self.model(self._preprocess(rgb), training=False)

    def embed(self, prepared):
        """Embeddings of prepared photos: (B, image_size, image_size) -> float32 (B, size)."""
        gray = lab.l_to_gray(np.asarray(prepared, "float32")[..., None]) * 255.0
        rgb = np.repeat(gray, 3, axis=-1)
        return np.asarray(self.model.predict_on_batch(self._preprocess(rgb)), "float32")

    def __call__(self, lightness):
        """Embeddings of a lightness array (H, W), or of a list of them, -> (B, size) float32."""
        photos = lightness if isinstance(lightness, list | tuple) else [lightness]
        return self.embed(np.stack([self.prepare(photo) for photo in photos]))


@lru_cache(maxsize=2)
def shared_embedder(backbone=DEFAULT_BACKBONE, weights=None):
    """One `Embedder` for all of a process that ask for the same backbone: loading takes seconds."""
    return Embedder(backbone, weights)


def class_names():
    """The names of ImageNet's 1000 classes in the order of the logits: list of (synset, name)."""
    with open(PACKAGED / "imagenet_classes.csv", newline="", encoding="utf-8") as file:
        return [(row["synset"], row["name"]) for row in csv.DictReader(file)]
