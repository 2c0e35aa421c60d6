"""The embedding says what a gray photo shows, with weights from every place they can come from."""

import json
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import save_legacy_weights, shifted_weights
from skimage import color

from colorlib import ASSETS, ColorlibError, embedding, files, lab, photos
from colorlib.embedding import PAPER_BACKBONE, Embedder, class_names
from colorlib.presets import WEIGHTS

PACKAGED = ASSETS / "backbones" / "EfficientNetLite2"
BENCHMARK = Path(__file__).parent / "benchmarks" / "backbone_accuracy.py"

# What a person would say of these photos.
CLASSES = {
    "animal_python3_chelsea.jpg": {"tabby", "tiger cat", "Egyptian cat"},
    "food_python3_coffee.jpg": {"espresso", "cup", "coffee mug"},
    "animal_palapeli_european_honey_bee.jpg": {"bee"},
    "food_palapeli_citrus_fruits.jpg": {"lemon", "orange"},
    "street_palapeli_cincinnati_bridge.jpg": {"suspension bridge"},
}


@pytest.fixture(scope="module")
def embedder():
    return Embedder()


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch):
    """Downloads fail at once: nothing listens at the proxy."""
    if not request.node.get_closest_marker("network"):
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)


def lightness(name):
    return lab.lightness(photos.read(ASSETS / "sample" / name))


def best_classes(embedder, name, count=5):
    order = np.argsort(-embedder(lightness(name))[0])
    return [class_names()[i][1] for i in order[:count]]


def gray_values(prepared):
    """scikit-image's sRGB gray, 0..255, of an array of L."""
    neutral = np.stack([prepared, 0 * prepared, 0 * prepared], axis=-1).astype("float64")
    return np.repeat(255 * color.lab2rgb(neutral).mean(axis=-1, keepdims=True), 3, axis=-1)


def fails(match, *arguments, **options):
    """Asserts one line that says what is wrong."""
    with pytest.raises(ColorlibError, match=match) as caught:
        Embedder(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The packaged backbone


@pytest.mark.backend
@pytest.mark.parametrize("name", CLASSES)
def test_packaged_backbone_knows_what_gray_photos_show(embedder, name):
    assert best_classes(embedder, name)[0] in CLASSES[name]


@pytest.mark.backend
def test_the_embedding_is_the_logits_of_the_gray_photo(embedder):
    prepared = embedder.prepare(lightness("animal_python3_chelsea.jpg"))[None]
    logits = embedder.embed(prepared)
    assert logits.shape == (1, 1000) and logits.dtype == np.float32
    # Logits, no probabilities; and EfficientNet-Lite's own scaling.
    assert logits.min() < 0 and abs(logits.sum() - 1) > 0.1
    direct = embedder.model.predict_on_batch((gray_values(prepared) - 127) / 128)
    np.testing.assert_allclose(logits, direct, atol=2e-3)


@pytest.mark.backend
def test_what_an_embedder_says_of_itself(embedder):
    assert embedder.backbone == "EfficientNetLite2" and embedder.layer == "logits"
    assert (embedder.image_size, embedder.size) == (260, 1000)
    assert embedder.key == f"EfficientNetLite2-logits-{embedder.digest[:16]}"
    # 6,150,168 in the file; folded, three numbers a channel of the batch normalizations are gone.
    assert embedder.model.count_params() == 6_063_024 and not embedder.model.trainable_weights


@pytest.mark.backend
def test_one_photo_and_a_batch_get_the_same_embeddings(embedder):
    planes = [lightness(name) for name in list(CLASSES)[:3]]
    batch = embedder(planes)
    np.testing.assert_array_equal(embedder(planes), batch)
    for plane, row in zip(planes, batch, strict=True):
        np.testing.assert_allclose(embedder(plane)[0], row, atol=1e-3)


@pytest.mark.backend
def test_the_global_precision_does_not_touch_the_embedding(embedder):
    plane = lightness("animal_python3_chelsea.jpg")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        other = Embedder()
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        np.testing.assert_array_equal(other(plane), embedder(plane))
        assert other.key == embedder.key
    finally:
        keras.config.set_dtype_policy(policy)


def cubic_weights(length, size):
    """Keys' cubic (a = -1/2), widened to average when it shrinks: (size, length)."""
    scale = length / size
    centers = (np.arange(size) + 0.5) * scale - 0.5
    x = np.abs(np.arange(length) - centers[:, None]) / max(scale, 1)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(300, 451), (641, 402), (120, 90), (260, 260)])
def test_prepare_takes_the_center_square_and_resizes_it_bicubically(embedder, height, width):
    plane = np.random.default_rng(0).uniform(0, 100, (height, width))
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    weights = cubic_weights(side, 260)
    expected = weights @ plane[top : top + side, left : left + side] @ weights.T
    prepared = embedder.prepare(plane)
    assert prepared.shape == (260, 260) and prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, np.clip(expected, 0, 100), atol=1e-3)


def test_prepare_takes_a_photo_of_one_pixel(embedder):
    np.testing.assert_allclose(embedder.prepare(np.full((1, 1), 40.0)), 40, atol=1e-4)


@pytest.mark.backend
def test_class_names_are_in_the_order_of_the_logits():
    names = class_names()
    assert len(names) == 1000 and len({synset for synset, _ in names}) == 1000
    # ImageNet numbers its classes by their sorted synsets.
    assert [synset for synset, _ in names] == sorted(synset for synset, _ in names)
    assert names[0] == ("n01440764", "tench") and names[281] == ("n02123045", "tabby")


def test_the_card_belongs_to_the_weights():
    card = json.loads((PACKAGED / "card.json").read_text())
    assert card["weights_sha256"] == files.sha256(PACKAGED / WEIGHTS)
    assert card["license"].startswith("Apache-2.0")
    assert "Apache License" in (PACKAGED / "LICENSE").read_text()
    accuracy = card["accuracy"]
    assert accuracy["top_1_percent"] >= 75 and accuracy["top_5_percent"] >= 92
    assert "probably from the network's training set" in accuracy["caution"]


@pytest.mark.slow
def test_the_cards_command_measures_accuracy(tmp_path, monkeypatch, capsys):
    for source, name in (
        ("animal_python3_chelsea", "n02124075_egyptian_cat"),
        ("food_python3_coffee", "n07920052_espresso"),
        ("animal_palapeli_european_honey_bee", "n03089624_confectionery"),  # It is none.
    ):
        content = (ASSETS / "sample" / f"{source}.jpg").read_bytes()
        (tmp_path / f"{name}.jpg").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["backbone_accuracy.py", str(tmp_path)])
    main = runpy.run_path(str(BENCHMARK))["main"]
    main()
    result = json.loads(capsys.readouterr().out)
    expected = {"photos": 3, "top_1": 66.7, "top_5": 66.7}
    assert result == {"backbone": "EfficientNetLite2", **expected}
    (tmp_path / "holiday.jpg").write_bytes(content)
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "holiday.jpg: does not begin with an ImageNet synset" in capsys.readouterr().err


@pytest.mark.slow
def test_other_weights_give_other_embeddings_and_another_key(embedder, tmp_path):
    shifted = shifted_weights(tmp_path / "shifted.weights.h5")
    other, plane = Embedder(weights=shifted), lightness(next(iter(CLASSES)))
    np.testing.assert_allclose(other(plane), embedder(plane) + 1, atol=1e-2)
    assert other.key != embedder.key


def test_a_wrong_file_for_the_packaged_backbone_is_one_line(tmp_path):
    whole = (PACKAGED / WEIGHTS).read_bytes()
    contents = {"cut": whole[:100_000], "empty": b"", "text": b"no weights"}
    for name, content in contents.items():
        (tmp_path / f"{name}.weights.h5").write_bytes(content)
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(
        tmp_path / "other.weights.h5"
    )
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in (*(f"{name}.weights.h5" for name in (*contents, "other")), "array.npy"):
        fails(f"{name}: not the weights of EfficientNetLite2", weights=tmp_path / name)
    fails("missing.h5: no such weights file", weights=tmp_path / "missing.h5")


# The paper's backbone


@pytest.mark.slow  # below, another backbone comes from such a folder, and this one's file is found
def test_papers_backbone_from_a_folder_of_weights(inception_weights, papers_embedder):
    embedder = papers_embedder
    assert embedder.backbone == "InceptionResNetV2" and embedder.layer == "logits"
    assert (embedder.image_size, embedder.size) == (299, 1000)
    assert not embedder.model.trainable_weights
    with np.load(inception_weights / "expected.npz") as expected:
        images, logits = expected["images"], expected["logits"]
    # Random weights give small logits: compare with how far apart those of two images are.
    spread = np.abs(logits[0] - logits[1]).max()
    assert spread > 0.01
    np.testing.assert_allclose(embedder.model.predict_on_batch(images), logits, atol=spread / 1e4)
    # From L to -1..1 in three equal channels.
    prepared = np.stack([embedder.prepare(lightness(name)) for name in list(CLASSES)[:2]])
    seen = (gray_values(prepared) / 127.5 - 1).astype("float32")
    assert seen.shape == (2, 299, 299, 3) and -1 <= seen.min() < -0.8 and 0.8 < seen.max() <= 1
    direct = embedder.model.predict_on_batch(seen)
    np.testing.assert_allclose(embedder.embed(prepared), direct, atol=spread / 1e3)


@pytest.mark.network
@pytest.mark.parametrize("name", CLASSES)
def test_papers_backbone_as_keras_downloads_it(name):
    embedder = embedding.shared_embedder(PAPER_BACKBONE)
    assert CLASSES[name] & set(best_classes(embedder, name))


# Any other model of keras.applications


@pytest.mark.slow
@pytest.mark.backend
def test_another_backbone_gives_its_logits(tmp_path, monkeypatch):
    model = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    stem = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224"
    save_legacy_weights(model, tmp_path / f"{stem}.h5")
    # Where there are both files, the one with the classifier is taken.
    (tmp_path / f"{stem}_no_top.h5").write_bytes(b"")
    monkeypatch.setenv("COLORLIB_WEIGHTS", str(tmp_path))
    embedder = Embedder("MobileNetV2")
    assert (embedder.layer, embedder.image_size, embedder.size) == ("logits", 224, 1000)
    prepared = embedder.prepare(lightness("food_python3_coffee.jpg"))[None]
    direct = model.predict_on_batch((gray_values(prepared) / 127.5 - 1).astype("float32"))
    np.testing.assert_allclose(embedder.embed(prepared), direct, atol=1e-4 * np.abs(direct).max())


# MobileNetV3 takes photos of any size even with its classifier.
@pytest.mark.slow
def test_without_its_classifier_a_backbone_gives_pooled_features(tmp_path):
    name, size = "MobileNetV3Small", 576
    file = "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"
    options = {"weights": None, "include_top": False, "pooling": "avg"}
    model = getattr(keras.applications, name)(**options)
    save_legacy_weights(model, tmp_path / file)
    embedder = Embedder(name, weights=tmp_path / file)
    assert (embedder.layer, embedder.image_size, embedder.size) == ("pooled", 224, size)
    assert embedder.key.startswith(f"{name}-pooled-")
    prepared = embedder.prepare(lightness("food_python3_coffee.jpg"))[None]
    direct = model.predict_on_batch(gray_values(prepared).astype("float32"))
    np.testing.assert_allclose(embedder.embed(prepared), direct, atol=1e-3 * np.abs(direct).max())


# Keras' own file names, as it publishes or caches them.
FILES = {
    "ConvNeXtTiny": "convnext_tiny.h5",
    "DenseNet121": "densenet121_weights_tf_dim_ordering_tf_kernels.h5",
    "EfficientNetB0": "efficientnetb0.h5",
    "EfficientNetV2B0": "efficientnetv2-b0.h5",
    "EfficientNetV2S": "efficientnetv2-s.h5",
    "InceptionResNetV2": "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels.h5",
    "InceptionV3": "inception_v3_weights_tf_dim_ordering_tf_kernels.h5",
    "MobileNet": "mobilenet_1_0_224_tf.h5",
    "MobileNetV2": "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
    "MobileNetV3Large": "weights_mobilenet_v3_large_224_1.0_float.h5",
    "MobileNetV3Small": "weights_mobilenet_v3_small_224_1.0_float.h5",
    "NASNetLarge": "NASNet-large.h5",
    "NASNetMobile": "nasnet_mobile.h5",
    "ResNet50": "resnet50_weights_tf_dim_ordering_tf_kernels.h5",
    "ResNet50V2": "resnet50v2_weights_tf_dim_ordering_tf_kernels.h5",
    "VGG16": "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    "Xception": "xception_weights_tf_dim_ordering_tf_kernels.h5",
}


def test_finds_each_backbone_by_keras_own_file_name(tmp_path, monkeypatch):
    monkeypatch.setenv("COLORLIB_WEIGHTS", str(tmp_path))
    for file in FILES.values():
        (tmp_path / file).touch()
        for ending in ("_notop.h5", "_no_top.h5", "-no-top.h5"):
            (tmp_path / file.replace(".h5", ending)).touch()
    names = embedding._applications()
    assert len(names) > 30 and set(FILES) < set(names)
    for name in names:
        found = embedding._find_weights(name, names)
        assert (found.name if found else None) == FILES.get(name), name


def test_an_unknown_backbone_is_named_with_the_known_ones():
    message = fails("Unknown backbone 'Inceptoin'", "Inceptoin")
    assert "EfficientNetLite2" in message and "InceptionResNetV2" in message


def test_a_wrong_file_for_another_backbone_is_one_line(tmp_path, monkeypatch):
    small = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    save_legacy_weights(small, tmp_path / "other.h5")
    (tmp_path / "text.h5").write_bytes(b"no weights")
    for name in ("other.h5", "text.h5"):
        fails(f"{name}: not the weights of MobileNetV2", "MobileNetV2", tmp_path / name)
    fails("missing.h5: no such weights file", "MobileNetV2", weights=tmp_path / "missing.h5")
    monkeypatch.setenv("COLORLIB_WEIGHTS", str(tmp_path / "nowhere"))
    fails("COLORLIB_WEIGHTS=.*nowhere: no such folder", "MobileNetV2")
