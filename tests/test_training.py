"""Training ends where it should, whatever happens on the way."""

import csv
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import KNOW_SMALL
from keras import ops
from skimage.color import rgb2lab

from colorlib import Colorizer, ColorlibError, data, lab, photos, presets, training
from colorlib.__main__ import main
from colorlib.checkpoint import Checkpoint
from colorlib.config import TrainingConfig
from colorlib.model import get_architecture
from colorlib.training import prepare, stages, start_network, train

RUN_FOLDER = {
    *("card.json", "config.json", "environment.json", "history.csv", "logs"),
    *("manifest.csv.gz", "state.npz", "weights.weights.h5"),
}


def short(config, steps=1, **changes):
    return replace(config, **{"epochs": 1, "steps_per_epoch": steps} | changes)


def network_of(run):
    """The network of a run with the weights that it kept."""
    card = json.loads((run / "card.json").read_text())
    network = get_architecture(card["network"]).build(card["embedding"].get("size"))
    network.load_weights(run / "weights.weights.h5")
    return network


def history(run):
    with open(run / "history.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def manifest(run):
    with gzip.open(run / "manifest.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def state(run):
    with np.load(run / "state.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "meta"}
        return json.loads(str(file["meta"])), arrays


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def one_step(small_config, sample, tmp_path_factory):
    """A run that learns nothing, of six photos and seven texts: its config, folder and words."""
    folder = tmp_path_factory.mktemp("one_step")
    (folder / "photos").mkdir()
    for path in sample[:6]:
        shutil.copy(path, folder / "photos")
    for number in range(7):  # also of one content
        (folder / "photos" / f"text{number}.jpg").write_text("text")
    config = short(small_config, photos=str(folder / "photos"), validation=sample[4:8])
    config = replace(config, learning_rate=1e-9, ema=0.0)
    with redirect_stdout(StringIO()) as said:
        run = train(config, folder / "run", verbose=2)
    return config, run, said.getvalue()


# The config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 320}, "size must be at most short_side=224. Received: size=320"),
        ({"size": (64, 320)}, "size must be at most short_side=224. Received: size=(64, 320)"),
        ({"size": 100, "network": "pyramid"}, "size must be a multiple of 32 for pyramid"),
        ({"size": (32, 64, 96), "epochs": 2}, "size must be no more stages than epochs=2"),
        ({"scales": (1.5, 0.5)}, "scales must be two, rising. Received: scales=(1.5, 0.5)"),
        ({"scales": 0.7}, "scales must be two, rising. Received: scales=0.7"),
        ({"film": 1.5}, "film must be in 0..1"),
        ({"erase": -0.1}, "erase must be in 0..1"),
        ({"batch": 0}, "batch must be at least 1. Received: batch=0"),
        ({"epochs": -1}, "epochs must be at least 1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, or None"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"validation_fraction": 1.0}, "validation_fraction must be between 0 and 1"),
        ({"dropout": 1.0}, "dropout must be in 0..1"),
        ({"ema": 1.0}, "ema must be in 0..1"),
        ({"schedule": "linear"}, "schedule must be 'cosine' or 'constant'"),
        ({"precision": "float16"}, "precision must be 'float32' or 'mixed_bfloat16'"),
        ({"seed": -1}, "seed must be in 0..4294967295. Received: seed=-1"),
        ({"size": (96, 224), "scales": (1.1, 1.5)}, "crops of 224 px times that fit short_side=22"),
        ({"network": "papers"}, "Unknown network 'papers': must be one of paper"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_value_is_named(changes, message):
    with pytest.raises(ColorlibError) as error:
        TrainingConfig("photos", **changes)
    assert message in str(error.value)


def test_the_papers_run_has_the_papers_values():
    config = TrainingConfig.paper("photos", epochs=3)
    papers = {
        "network": "paper",
        "backbone": "InceptionResNetV2",
        "standardize": False,
        "size": 224,
        "batch": 100,
        "learning_rate": 0.001,
        "schedule": "constant",
        "weight_decay": 0.0,
        "dropout": 0.0,
        "ema": 0.0,
        "validation": None,
        "validation_fraction": 0.1,
        "epochs": 3,
    }
    assert asdict(config).items() >= papers.items()
    assert config.short_side >= config.size


# A step


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_step_changes_the_weights_and_leaves_a_whole_run(tiny_config, tmp_path, precision):
    config = short(tiny_config, precision=precision)
    run = train(config, tmp_path / "run", verbose=0)
    assert {path.name for path in run.iterdir()} == RUN_FOLDER
    (row,) = history(run)
    assert row["step"] == 1
    assert np.isfinite([row["loss"], row["val_loss"]]).all() and 0 < row["loss"] < 1

    keras.utils.set_random_seed(config.seed)
    initial = get_architecture("paper").build(1000, config.dropout).get_weights()
    for before, after in zip(initial, network_of(run).get_weights(), strict=True):
        assert np.isfinite(after).all() and (before != after).any()
        # Adam's first step is at most the learning rate.
        assert 1e-4 < np.abs(before - after).max() < 1.01e-3

    card = json.loads((run / "card.json").read_text())
    assert card["config"]["precision"] == precision and card["history"][0]["step"] == 1
    counts = [card["data"][side]["photos"] for side in ("training", "validation")]
    assert sum(counts) == len(config.photos)
    assert json.loads((run / "environment.json").read_text())["backend"] == keras.backend.backend()
    assert json.loads((run / "config.json").read_text())["photos"] == list(config.photos)


def test_the_manifest_names_every_photo(tiny_run, tiny_config):
    rows = manifest(tiny_run)
    files = {path.rsplit("/", 1)[1]: path for path in tiny_config.photos}
    assert len(rows) == len(files)
    for row in rows:
        path = files[row["file"].rsplit("/", 1)[1]]
        with open(path, "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == row["sha256"]
    assert {row["split"] for row in rows} == {"training", "validation"}


@pytest.mark.slow
def test_the_papers_run_takes_a_step(sample, papers_embedder, tmp_path, monkeypatch):
    embedders = {(papers_embedder.backbone, None): papers_embedder}
    monkeypatch.setattr(training, "shared_embedder", lambda *asked: embedders[asked])
    config = TrainingConfig.paper(
        sample[:4], short_side=64, size=64, batch=2, epochs=1, steps_per_epoch=1
    )
    run = train(config, tmp_path / "run", verbose=0)
    card = json.loads((run / "card.json").read_text())
    assert card["embedding"]["backbone"] == "InceptionResNetV2"
    assert card["embedding"]["size"] == 1000 and card["embedding"]["layer"] == "logits"
    assert (card["embedding"]["mean"], card["embedding"]["deviation"]) == (0.0, 1.0)
    assert network_of(run).count_params() == 6_573_794
    assert np.isfinite(history(run)[0]["loss"])


@pytest.mark.slow  # test_cli trains `pyramid`, at one size
@pytest.mark.backend
def test_stages_rise_in_one_run(staged_config, tmp_path):
    config = short(staged_config, steps=2, epochs=3, size=(32, 64))
    assert stages(config) == [(32, 0, 1), (64, 1, 3)]
    run = train(config, tmp_path / "run", verbose=0)
    rows = history(run)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(0 < row["val_mse"] < 1 for row in rows)
    card = json.loads((run / "card.json").read_text())
    assert set(card["embedding"]) == {"backbone", "weights_sha256"}
    assert card["config"]["size"] == [32, 64]
    validation = prepare(config)[1]
    batch = data.CenterCrops(validation, size=64, batch=99)[0]
    color = rgb2lab(batch["rgb"]).astype("float32")
    output = network_of(run)({"l": lab.scale_l(color[..., :1])}, training=False)
    architecture = get_architecture("small")
    # What is validated is the loss and the error of the expected color, of what is kept.
    best = min(rows, key=lambda row: row["val_loss"])
    loss = ops.convert_to_numpy(architecture.loss(color[..., 1:], output)).mean()
    assert best["val_loss"] == pytest.approx(loss, rel=1e-3)
    ab = ops.image.resize(architecture.decode(output), (64, 64), "bilinear")
    errors = (ops.convert_to_numpy(ab) - color[..., 1:]) / 127
    assert best["val_mse"] == pytest.approx((errors**2).mean(), rel=1e-3)


def test_a_run_starts_from_the_weights_of_a_preset(sample):
    config = TrainingConfig(sample, network="pyramid", start="pyramid")
    weights = get_architecture("pyramid").build(None)
    weights.load_weights(presets.preset_folder("pyramid") / presets.WEIGHTS)
    for a, b in zip(start_network(config, None).get_weights(), weights.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_short_runs_average_over_fewer_steps(tiny_config, tmp_path):
    """An average with a long memory would still hold the random weights of the start."""
    config = replace(tiny_config, ema=None)
    rows = history(train(config, tmp_path / "run", verbose=0))
    assert rows[-1]["val_loss"] < 2 * rows[-1]["loss"]


# What it learns


def squared_error(photo_set, network):
    """The loss by its definition, on ab / 127, of the photos' centers; and that of their mean."""
    batch = data.CenterCrops(photo_set, size=32, batch=99)[0]
    color = rgb2lab(batch["rgb"])
    output = network.predict_on_batch(
        {"l": np.float32(color[..., :1] / 50 - 1), "embedding": batch["embedding"]}
    )
    truth = color[..., 1:] / 127
    return np.mean((ops.convert_to_numpy(output) - truth) ** 2), truth.var(axis=(0, 1, 2)).mean()


def test_the_loss_on_held_out_photos_falls(tiny_run, tiny_config):
    losses = [row["val_loss"] for row in history(tiny_run)]
    assert losses[-1] < losses[0]
    training, validation, _ = prepare(tiny_config)
    loss, _ = squared_error(validation, network_of(tiny_run))
    assert loss == pytest.approx(min(losses), rel=1e-3)  # What is kept is what was validated.
    loss, mean_color = squared_error(training, network_of(tiny_run))
    assert loss < 0.8 * mean_color


@pytest.mark.slow  # the test above says that what is validated is kept
def test_what_is_validated_and_kept_are_the_averages(tiny_config, tmp_path):
    def keep(batch, logs):
        live.append(seer.model.network.get_weights())

    live, seer = [], keras.callbacks.LambdaCallback(on_train_batch_end=keep)
    config = short(tiny_config, steps=2, dropout=0.0, schedule="constant", ema=0.0)
    train(config, tmp_path / "live", verbose=0, callbacks=[seer])
    config = replace(config, ema=0.75)
    run = train(config, tmp_path / "averages", verbose=0)
    for first, second, average in zip(*live, network_of(run).get_weights(), strict=True):
        # Keras begins with the weights after the first step.
        np.testing.assert_allclose(average, 0.75 * first + 0.25 * second, atol=1e-6)
        assert np.abs(average - second).max() > 1e-5
    loss, _ = squared_error(prepare(config)[1], network_of(run))
    assert history(run)[0]["val_loss"] == pytest.approx(loss, rel=1e-3)


def test_callbacks_see_the_weights_that_an_epoch_ends_with(small_config, tmp_path):
    def see(epoch, logs):
        seen.append(seer.model.network.get_weights())

    seen, seer = [], keras.callbacks.LambdaCallback(on_epoch_end=see)
    config = short(small_config, steps=2, ema=0.75)
    run = train(config, tmp_path / "run", verbose=0, callbacks=[seer])
    (weights,) = seen
    for kept, one in zip(network_of(run).get_weights(), weights, strict=True):
        np.testing.assert_array_equal(kept, one)


@pytest.mark.slow
def test_a_diverging_run_ends_with_a_line(tiny_config, tmp_path):
    with pytest.raises(ColorlibError, match="learning_rate") as error:
        train(short(tiny_config, steps=3, learning_rate=1e30, ema=0.0), tmp_path / "run", verbose=0)
    assert "\n" not in str(error.value)


# Stopping and going on


@pytest.fixture(scope="module")
def staged_config(small_config):
    """Everything that draws random numbers, and a stage at each of two sizes."""
    return replace(
        small_config,
        size=(32, 64),
        scales=(0.7, 1.3),
        short_side=72,
        film=0.5,
        erase=0.5,
        weight_decay=0.01,
    )


@pytest.mark.slow  # the test below stops a run with Ctrl-C
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_run_ends_like_an_uninterrupted_one(staged_config, tmp_path, capsys):
    run = tmp_path / "run"
    uninterrupted = train(staged_config, tmp_path / "uninterrupted", verbose=0)
    # A step takes so long that the process is met within the second epoch.
    code = f"""{KNOW_SMALL}
import time, keras
from colorlib.config import TrainingConfig
from colorlib.training import train
pause = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.05))
config = {replace(staged_config, checkpoint_seconds=0.0)!r}
train(config, {str(run)!r}, verbose=0, callbacks=[pause])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        step = 0
        while step < 18 and process.poll() is None:  # Into the second epoch, of 16 steps.
            time.sleep(0.01)
            step = state(run)[0]["step"] if (run / "state.npz").exists() else 0
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    step = state(run)[0]["step"]
    assert 18 <= step < 32
    stopped = {"at_step": 16, "planned_steps": 32}  # as of the last validation
    assert presets.load_card(run)["stopped"] == stopped

    train(staged_config, run, verbose=0)
    assert f"resuming at step {step} of 32" in capsys.readouterr().out
    meta, resumed = state(run)
    expected_meta, expected = state(uninterrupted)
    # Weights, Adam's moments, averages, random seeds, running losses.
    assert resumed.keys() == expected.keys() and meta["step"] == expected_meta["step"] == 32
    for name, value in expected.items():
        np.testing.assert_allclose(resumed[name], value, atol=1e-6, rtol=0, err_msg=name)
    for a, b in zip(
        network_of(run).get_weights(), network_of(uninterrupted).get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)
    for a, b in zip(history(run), history(uninterrupted), strict=True):
        assert [a["epoch"], a["step"]] == [b["epoch"], b["step"]]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-5)


# In the first and in the last epoch.
@pytest.mark.parametrize("last", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_ctrl_c_leaves_a_preset_and_the_run_goes_on(
    last, small_run, small_config, tmp_path, monkeypatch, capsys
):
    count = Checkpoint.on_train_batch_end

    def interrupted(self, batch, logs=None):
        if self.step == last - 1:
            signal.raise_signal(signal.SIGINT)
        count(self, batch, logs)

    run, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    config = replace(small_config, checkpoint_seconds=1e9)
    monkeypatch.setattr(Checkpoint, "on_train_batch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, run, verbose=0)
    assert state(run)[0]["step"] == last and signal.getsignal(signal.SIGINT) == before
    monkeypatch.undo()
    assert f"stopped at step {last} of 32; {run} can be used as a preset" in capsys.readouterr().out
    card = presets.load_card(run)
    assert card["stopped"] == {"at_step": last, "planned_steps": 32}
    assert len(card["history"]) == last // 16
    photo = Path(config.photos[0])
    assert main(["colorize", str(photo), "--output", str(tmp_path), "--preset", str(run)]) == 0
    stopped = photos.read(tmp_path / photo.name)
    assert np.abs(stopped.astype(float) - Colorizer.from_preset(run).colorize(photo)).mean() < 3
    assert np.ptp(stopped, axis=-1).mean() > 0.5, "gray"

    train(config, run, verbose=0)
    assert "stopped" not in presets.load_card(run)
    ends = (network_of(folder).get_weights() for folder in (run, small_run))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)


@pytest.mark.slow  # the test below makes a run longer, too
@pytest.mark.backend
def test_a_run_goes_on_with_more_epochs(small_config, tmp_path, capsys):
    """Where the schedule doesn't hang on the length, as if it had been so long from the start."""
    config = short(small_config, steps=6, schedule="constant")
    whole = train(replace(config, epochs=2), tmp_path / "whole", verbose=0)
    run = train(config, tmp_path / "run", verbose=0)
    assert train(replace(config, epochs=2), run, verbose=0) == run
    meta, longer = state(run)
    assert meta["step"] == 12 and len(history(run)) == 2
    for name, value in state(whole)[1].items():
        np.testing.assert_allclose(longer[name], value, atol=1e-6, rtol=0, err_msg=name)
    card = presets.load_card(run)
    assert card["extended"] == [{"at_step": 6, "planned_steps": 6}] and "stopped" not in card
    assert card["config"]["epochs"] == 2 and len(card["history"]) == 2
    with pytest.raises(ColorlibError, match="epochs: 2 -> 1"):
        train(config, run, verbose=0)

    capsys.readouterr()
    (run / "state.npz").unlink()
    with pytest.raises(ColorlibError, match=r"without its state\.npz; --from") as error:
        train(replace(config, epochs=3), run, verbose=0)
    assert str(run) in str(error.value) and "\n" not in str(error.value)


def test_a_longer_run_has_the_learning_rate_of_its_length(
    small_run, small_config, tmp_path, capsys
):
    run = shutil.copytree(small_run, tmp_path / "run")
    train(replace(small_config, epochs=4), run, verbose=0)
    out = capsys.readouterr().out
    # 6 of 64 steps are the warm-up; the cosine is at 26 of 58 here.
    rate = 1e-3 * (1 + np.cos(np.pi * 26 / 58)) / 2
    assert "resuming at step 32 of 64" in out and f"the learning rate is {rate:.2g} here" in out
    assert [row["step"] for row in history(run)] == [16, 32, 48, 64]


@pytest.mark.slow
def test_fine_tuning_starts_from_the_presets_weights(tiny_run, one_step, tmp_path, capsys):
    def fine_tune(run, *options):
        folder = one_step[0].photos
        small = ("--size", "32", "--short-side", "48", "--batch", "2", "--epochs", "1")
        train = ("train", "--photos", folder, "--output", run, "--from", tiny_run, *small)
        return main([*map(str, train), "--steps-per-epoch", "1", *options])

    run = tmp_path / "run"
    assert fine_tune(run, "--network", "pyramid") == 2
    assert "weights of the network paper" in capsys.readouterr().err and not run.exists()
    # Its network needs no naming.
    assert fine_tune(run, "--learning-rate", "1e-9", "--ema", "0") == 0
    for a, b in zip(network_of(run).get_weights(), network_of(tiny_run).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    card, start = presets.load_card(run), presets.load_card(tiny_run)
    assert card["embedding"] == start["embedding"], "the weights know embeddings as they were"
    digest = hashlib.sha256((tiny_run / "weights.weights.h5").read_bytes()).hexdigest()
    assert card["started_from"] == {"name": "tiny", "weights_sha256": digest}


@pytest.mark.slow
def test_a_card_names_the_weights_that_a_run_started_from_whatever_becomes_of_them(
    small_run, small_config, tmp_path
):
    start = shutil.copytree(small_run, tmp_path / "start")
    config = short(replace(small_config, start=str(start)), steps=2)
    run = train(config, tmp_path / "run", verbose=0)
    before = presets.load_card(run)["started_from"]
    shutil.copyfile(run / presets.WEIGHTS, start / presets.WEIGHTS)  # as if trained on
    train(replace(config, epochs=2), run, verbose=0)
    assert presets.load_card(run)["started_from"] == before
    assert (
        before["weights_sha256"]
        != hashlib.sha256((start / presets.WEIGHTS).read_bytes()).hexdigest()
    )


def test_a_run_that_learns_nothing_says_so(one_step):
    _, run, said = one_step
    floors = json.loads((run / "card.json").read_text())["floors"]
    beside = [f"val_floor_{name.replace(' ', '_')}: {x:.4f}" for name, x in floors.items()]
    assert re.search(r"val_mse: 0\.\d+ - " + " - ".join(beside), said), said
    assert f"gray {floors['gray']:.5f}, mean ab {floors['mean ab']:.5f}" in said
    assert "no more than one color for everything" in said


def test_a_finished_run_is_returned_as_it_is(one_step, tmp_path):
    config, run, _ = one_step
    before = contents(run)
    away = Path(config.photos).rename(tmp_path / "away")  # Nothing of it is needed any more.
    assert train(replace(config, checkpoint_seconds=1.0), run) == run
    assert contents(run) == before
    away.rename(config.photos)


@pytest.mark.parametrize("name", ["card.json", "weights.weights.h5"])
def test_a_run_without_one_of_its_files_names_it(one_step, tmp_path, name):
    config, run, _ = one_step
    run = shutil.copytree(run, tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(ColorlibError, match=f"run: its {name} is missing; restore it"):
        presets.load_card(run)
    if name != "card.json":  # It isn't taken for finished either; without a card it goes on.
        with pytest.raises(ColorlibError, match=f"its {name} is missing"):
            train(config, run)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("config.json", b"{", "config (Expecting"),
        ("config.json", b"[1]", "config ("),
        ("config.json", b'{"epochs": "many"}', "config ("),
        ("card.json", b"{", "card (Expecting"),
        ("card.json", b"{}", "card (no 'name')"),
        ("manifest.csv.gz", None, "list of photos (Compressed file ended"),
        ("manifest.csv.gz", b"text", "list of photos (Not a gzipped file"),
        ("state.npz", None, "state ("),
        ("state.npz", b"", "state ("),
    ],
)
def test_a_damaged_file_of_a_run_is_named(one_step, tmp_path, name, content, what):
    config, run, _ = one_step
    run = shutil.copytree(run, tmp_path / "run")
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ColorlibError) as error:
        train(replace(config, epochs=2), run, verbose=0)
    line = str(error.value)
    assert line.startswith(f"{run / name}: damaged {what}") and "restore the file" in line
    assert "\n" not in line


def test_another_config_or_other_photos_are_refused(one_step, tmp_path):
    config, run, _ = one_step
    run, folder = shutil.copytree(run, tmp_path / "run"), Path(config.photos)
    before = contents(run)
    with pytest.raises(ColorlibError, match="seed: 1 -> 2") as error:
        train(replace(config, seed=2), run, verbose=0)
    assert str(run) in str(error.value) and "\n" not in str(error.value)
    assert contents(run) == before

    # A version that didn't know a setting began with what is its default now.
    began = json.loads((run / "config.json").read_text())
    del began["film"], began["scales"]
    (run / "config.json").write_text(json.dumps(began))
    os.unlink(run / "card.json")  # As if it had been stopped.
    shutil.copy(photo := sorted(folder.iterdir())[0], folder / "copy.jpg")
    train(config, run, verbose=0)  # A copy is nothing new.
    os.unlink(run / "card.json")
    os.unlink(folder / "copy.jpg")
    away = photo.rename(tmp_path / "away.jpg")
    with pytest.raises(ColorlibError, match="0 are new or changed, 1 gone") as error:
        train(config, run, verbose=0)
    assert "\n" not in str(error.value)
    away.rename(photo)


def test_a_misspelt_folder_leaves_nothing_behind(tiny_config, tmp_path):
    run = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    for wrong in (str(tmp_path / "photoss"), str(tmp_path / "empty")):
        with pytest.raises(ColorlibError):
            train(short(tiny_config, photos=wrong), run, verbose=0)
    assert not run.exists()


def test_what_can_be_refused_at_once_is_told_before_photos_are_prepared(
    small_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(data, "load_photos", lambda *_, **__: pytest.fail("photos are prepared"))
    run, missing = tmp_path / "runs" / "run", str(tmp_path / "missing")
    with pytest.raises(ColorlibError, match="needs JAX"):
        train(small_config, run, distribute=True)
    with pytest.raises(ColorlibError, match="missing: no such"):
        train(replace(small_config, validation=missing), run)
    assert not run.parent.exists()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError, match=str(folder)):
            train(small_config, folder)


def test_validation_photos_are_not_trained_on(one_step, sample, tmp_path):
    config, run, _ = one_step
    rows = manifest(run)
    names = {
        split: {row["file"].rsplit("/", 1)[1] for row in rows if row["split"] == split}
        for split in ("training", "validation")
    }
    assert names["training"] == {path.name for path in sample[:4]}
    assert names["validation"] == {path.name for path in sample[4:8]}
    with pytest.raises(ColorlibError, match="other photos"):
        train(replace(config, validation=sample[:6]), tmp_path / "other", verbose=0)


def test_what_is_left_out_is_said(one_step):
    config, run, said = one_step
    assert "6 photos; left out: 0 near gray, 7 unreadable" in said
    names = [str(Path(config.photos, f"text{number}.jpg")) for number in range(7)]
    assert names[0] in said
    lines = (run / "unreadable.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in lines] == names
    assert "device: " in said
