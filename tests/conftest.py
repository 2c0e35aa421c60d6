"""Tests see neither the user's settings nor leave anything in the user's folders."""

import functools
import http.server
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

# The processes that share the tests, with --numprocesses, share the caches of the first one.
FIRST = "PYTEST_XDIST_WORKER" not in os.environ
if FIRST:
    os.environ["TESTS_SCRATCH"] = tempfile.mkdtemp(prefix="colorlib-tests-")
SCRATCH = os.environ["TESTS_SCRATCH"]

# Here rather than in a fixture: Keras reads its settings when it is imported, and the kernels and
# commands that tests start inherit them.
for name in [name for name in os.environ if name.startswith("COLORLIB_")]:
    del os.environ[name]
os.environ["COLORLIB_CACHE"] = os.path.join(SCRATCH, "cache")
os.environ["KERAS_HOME"] = os.path.join(SCRATCH, "keras")
# The second as `colorlib train` has it, so that a run stopped in one process goes on in another as
# exactly.
TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "1"}
for name, value in TENSORFLOW.items():
    os.environ.setdefault(name, value)


def pytest_unconfigure():
    if FIRST:
        shutil.rmtree(SCRATCH, ignore_errors=True)


# Those that take longest go first, so that no process is left with one of them at the end; of those
# that need a run that is trained once, one alone is among the first.
LONGEST = ["pages", "benchmarks", "cluster", "study_survey", "page", "training", "hostile"]


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def sample():
    """A fifth of the packaged color photos, of all kinds: list of Path."""
    from colorlib import photos

    return list(photos.packaged("sample")["path"][::5])


@pytest.fixture(scope="session")
def smoke(sample, tmp_path_factory):
    """The folder in which every notebook has been executed with the profile smoke, with pages.

    Beside it are the `photos` that 04_historical_photos has colored: two, and a file that is none.
    Kernels start as JupyterLab starts them, without the tests' settings of TensorFlow: what that
    prints stands in a notebook.
    """
    from notebooks import run

    folder = tmp_path_factory.mktemp("smoke")
    output, photos = folder / "output", folder / "photos"
    photos.mkdir()
    for photo in sample[:2]:
        shutil.copy(photo, photos)
    (photos / "broken.jpg").write_text("no photo")
    parameters = {"FOLDER": str(photos)}
    with pytest.MonkeyPatch.context() as patch:
        for name in TENSORFLOW:
            patch.delenv(name, raising=False)
        assert run.run("smoke", parameters=parameters, output=output, site=output / "site") == 0
    return output


@pytest.fixture(scope="session")
def quick_quiz(tmp_path_factory):
    """A cache folder for pages whose quiz doesn't matter: no network has colored its photos."""
    from survey_parts import make_stimuli

    from study import stimuli

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLORLIB_CACHE", str(folder))
        patch.setattr(stimuli, "build", lambda _, target, recipe: make_stimuli(target, scenes=12))
        stimuli.packaged()
    return str(folder)


@pytest.fixture(scope="session")
def tiny_config(sample):
    """A training run of seconds that still learns something."""
    from colorlib.config import TrainingConfig

    return TrainingConfig(
        sample,
        network="paper",
        validation_fraction=0.3,
        short_side=48,
        size=32,
        batch=4,
        epochs=2,
        steps_per_epoch=16,
        ema=0.9,
        dropout=0.1,
    )


def trained_once(config, name):
    """The folder of a finished run, which the first process that asks for it makes for all."""
    from colorlib import files
    from colorlib.training import train

    run = Path(SCRATCH, "runs", name)
    with files.alone(run):
        return train(config, run, verbose=0)  # A finished run is returned as it is.


@pytest.fixture(scope="session")
def tiny_run(tiny_config):
    """The folder of that run, finished: what takes a preset's name takes this path."""
    return trained_once(tiny_config, "tiny")


@pytest.fixture(scope="session")
def small_config(tiny_config):
    """The same with a network of four layers, for what training does alike with every network."""
    import small_network

    return replace(tiny_config, network=small_network.NAME)


# A line of the code of a process that a test starts: it makes that network known there.
KNOW_SMALL = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import small_network"


@pytest.fixture(scope="session")
def small_run(small_config):
    """The folder of a run of that network, finished."""
    return trained_once(small_config, "small")


@pytest.fixture(scope="session")
def colorizers():
    """`Colorizer.from_preset`, which loads each preset once and keeps the programs it compiled."""
    from colorlib import Colorizer

    return functools.cache(Colorizer.from_preset)


@pytest.fixture(scope="session")
def chromium():
    """A function that starts Chromium; skips what needs it where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if not path:
        pytest.skip("no Chromium to open pages in: install the system's package `chromium`")

    @contextmanager
    def start():
        with playwright.sync_playwright() as running:
            arguments = ["--no-sandbox", "--force-color-profile=srgb"]
            browser = running.chromium.launch(executable_path=path, args=arguments)
            yield browser
            browser.close()

    return start


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    """Serves a folder of pages on this machine alone; gives their address."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")  # While it is open, its event loop is in the way of other tests.
def browser(chromium):
    with chromium() as browser:
        yield browser


# Safari before 16.4: a script can't make a style sheet, and no shadow adopts one.
NO_SHEETS = """
  window.CSSStyleSheet = class { constructor() { throw new TypeError("Illegal constructor"); } };
  delete ShadowRoot.prototype.adoptedStyleSheets;
"""


def serious(frame):
    """What axe finds in a page or frame that keeps people out: [impact, rule, element] each."""
    from axe_playwright_python.base import AXE_FILE_PATH

    # Through the debugger, as a page's policy may allow no script of others. Each frame by itself:
    # a page and its frames have different documents.
    look = "axe.run({iframes: false, preload: false}).then(r => r.violations.map("
    look += "v => [v.impact, v.id, v.nodes[0].html]))"
    found = frame.evaluate(f"{AXE_FILE_PATH.read_text(encoding='utf-8')};{look}")
    return [one for one in found if one[0] in ("serious", "critical")]


def swipe(page, element, start, end):
    """A finger from one place of an element to another, given in parts of its size."""
    box = element.bounding_box()
    protocol = page.context.new_cdp_session(page)
    for step in range(7):
        part = [a + (b - a) * step / 6 for a, b in zip(start, end, strict=True)]
        point = {"x": box["x"] + part[0] * box["width"], "y": box["y"] + part[1] * box["height"]}
        kind = "touchMove" if step else "touchStart"
        protocol.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    protocol.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def shifted_weights(path):
    """Writes the packaged backbone's weights with 1 added to every logit; returns the path."""
    from colorlib.embedding import efficientnet_lite2, shared_embedder

    model = efficientnet_lite2(dtype="float32")
    model.set_weights(shared_embedder().model.get_weights())
    kernel, bias = model.get_layer("fc").get_weights()
    model.get_layer("fc").set_weights([kernel, bias + 1])
    model.save_weights(path)
    return path


def save_legacy_weights(model, path):
    """Writes a file as Keras publishes the weights of its applications: legacy HDF5."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


@pytest.fixture(scope="session")
def inception_weights():
    """A folder for COLORLIB_WEIGHTS: the paper's backbone, random, in the file that Keras wants.

    `expected.npz` beside it holds two images of numbers in -1..1 and the backbone's logits of them.
    """
    import keras
    import numpy as np

    # Not tmp_path: pytest would keep three of 215 MB.
    folder = Path(tempfile.mkdtemp(prefix="inception-", dir=SCRATCH))
    keras.utils.set_random_seed(1)
    model = keras.applications.InceptionResNetV2(weights=None, classifier_activation=None)
    save_legacy_weights(model, folder / "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels.h5")
    images = np.random.default_rng(1).uniform(-1, 1, (2, 299, 299, 3)).astype("float32")
    images[1] /= 2
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    np.savez(folder / "expected.npz", images=images, logits=logits)
    return folder


@pytest.fixture(scope="session")
def papers_embedder(inception_weights):
    """`Embedder` of the paper's backbone, with the file of that folder."""
    from colorlib.embedding import PAPER_BACKBONE, Embedder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLORLIB_WEIGHTS", str(inception_weights))
        return Embedder(PAPER_BACKBONE)
