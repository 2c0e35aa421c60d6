"""A training run becomes a preset: smaller weights, and a card that says how good it is."""

import hashlib
import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from colorlib import Colorizer, ColorlibError, archive, files, presets
from colorlib.presets import package
from colorlib.training import train


@pytest.fixture(scope="module")
def photo_folder(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "photos"
    folder.mkdir()
    for path in sample[:2]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def packaged(tiny_run, photo_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "small"
    assert package(tiny_run, folder, [photo_folder], working_size=40) == presets.load_card(folder)
    return folder


def test_presets_are_listed_with_the_default_first():
    names = presets.preset_names()
    assert names[0] == presets.DEFAULT_PRESET
    for name in names:
        card = presets.load_card(name)
        assert card["name"] == name
        assert card["weights_sha256"] == files.sha256(presets.preset_folder(name) / presets.WEIGHTS)


def test_a_former_name_is_told():
    with pytest.raises(ColorlibError, match="'mse' is called 'paper' now"):
        presets.preset_folder("mse")


def test_a_card_is_written_as_it_ships(tmp_path):
    for name in presets.preset_names():
        presets.write_card(tmp_path, presets.load_card(name))
        shipped = presets.preset_folder(name) / presets.CARD
        assert (tmp_path / presets.CARD).read_bytes() == shipped.read_bytes()


def test_a_packaged_run_is_a_preset_of_half_the_size(packaged, tiny_run):
    card = presets.load_card(packaged)
    assert card["name"] == "small" and card["working_size"] == 40
    assert card["weights_sha256"] == files.sha256(packaged / presets.WEIGHTS)
    manifests = [(folder / presets.MANIFEST).read_bytes() for folder in (packaged, tiny_run)]
    assert manifests[0] == manifests[1]
    sizes = [(path / presets.WEIGHTS).stat().st_size for path in (packaged, tiny_run)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.02)
    with h5py.File(packaged / presets.WEIGHTS) as file:
        types = set()
        file.visititems(lambda _, item: types.add(getattr(item, "dtype", None)))
    assert {str(dtype) for dtype in types - {None}} == {"float16"}

    small, large = Colorizer.from_preset(packaged), Colorizer.from_preset(tiny_run)
    assert small.working_size == 40
    for half, whole in zip(small.network.get_weights(), large.network.get_weights(), strict=True):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, whole, atol=1e-4, rtol=1e-3)


def test_the_results_on_a_card_are_those_of_its_scores(packaged):
    scores = pd.read_parquet(packaged / presets.SCORES)
    assert list(scores.columns[:3]) == ["set", "method", "file"]
    assert len(scores) == 6 and set(scores["set"]) == {"photos"}
    assert set(scores["method"]) == {"model", "gray", "mean ab"}

    rows = scores.groupby("method").sum(numeric_only=True)
    rmse = np.sqrt(rows["ab_sse"] / rows["n_pixels"] / 2)
    floor = rmse.drop("model").min()
    (result,) = presets.load_card(packaged)["results"]["photos"]
    assert result["vividness"] is None and result["photos"] == 2
    assert result["ab_rmse"] == pytest.approx(rmse["model"], abs=1e-3)
    gain = 100 * (1 - rmse["model"] / floor)
    assert result["percent_under_better_floor"] == pytest.approx(gain, abs=0.01)
    assert result["colorfulness_percent"] == pytest.approx(
        100 * rows["colorfulness"]["model"] / rows["truth_colorfulness"]["model"], abs=0.1
    )


@pytest.mark.slow  # test_cli packages a run with that knob
def test_a_knob_is_scored_at_zero_and_at_its_default(photo_folder, tmp_path):
    card = package("pyramid", tmp_path / "vivid", [photo_folder], vividness=0.9)
    assert card["vividness"] == 0.9
    cautious, vivid = card["results"]["photos"]
    assert cautious["vividness"] == 0 and vivid["vividness"] == 0.9
    assert cautious["colorfulness_percent"] < vivid["colorfulness_percent"]
    # Both stand beside the same floor, which was scored once.
    floors = [r["ab_rmse"] / (1 - r["percent_under_better_floor"] / 100) for r in (cautious, vivid)]
    assert floors[0] == pytest.approx(floors[1], rel=1e-3)
    scores = pd.read_parquet(tmp_path / "vivid" / presets.SCORES)
    model = scores[scores["method"] == "model"]
    rmse = np.sqrt(model["ab_sse"].sum() / model["n_pixels"].sum() / 2)
    assert vivid["ab_rmse"] == pytest.approx(rmse, abs=1e-3)


@pytest.mark.slow
def test_a_run_with_that_knob_has_it_on_its_card(small_run, tiny_run, photo_folder, tmp_path):
    assert presets.load_card(small_run)["vividness"] == 0.0
    (result,) = package(small_run, tmp_path / "small", [photo_folder])["results"]["photos"]
    assert result["vividness"] == 0.0  # scored once
    older = shutil.copytree(small_run, tmp_path / "older")
    card = presets.load_card(older)
    del card["vividness"]
    presets.write_card(older, card)
    for run in (small_run, older):
        assert archive.options(run, vividness=0.5).vividness == 0.5
        with pytest.raises(ColorlibError, match="in 0..1. Received: 5"):
            archive.options(run, vividness=5)
    assert Colorizer.from_preset(older).vividness == 0.0
    assert "vividness" not in presets.load_card(tiny_run)


def test_what_was_written_by_hand_stays(packaged, tiny_run):
    card = presets.load_card(packaged)
    presets.write_card(packaged, {"about": {"summary": "Tiny."}, **card})
    assert package(tiny_run, packaged)["about"] == {"summary": "Tiny."}
    presets.write_card(packaged, card)
    assert json.loads((packaged / presets.CARD).read_text()) == card


def test_what_cannot_be_packaged_is_told(tiny_run, tmp_path):
    with pytest.raises(ColorlibError, match="run itself"):
        package(tiny_run, tiny_run)
    for size in (0, 31, 2049):
        with pytest.raises(ColorlibError, match=f"from 32 to 2048. Received: {size}"):
            package(tiny_run, tmp_path / "other", working_size=size)
    with pytest.raises(ColorlibError, match="Received: 0.5 for paper"):
        package(tiny_run, tmp_path / "other", vividness=0.5)
    assert not (tmp_path / "other").exists()


def test_a_preset_stays_as_it_was_if_it_cannot_be_scored(packaged, tiny_run, tmp_path):
    before = {path.name: path.read_bytes() for path in packaged.iterdir()}
    gray = tmp_path / "a" / "photos"
    for folder in (gray, tmp_path / "b" / "photos"):
        folder.mkdir(parents=True)
        Image.new("L", (60, 40), 99).save(folder / "gray.png")
    with pytest.raises(ColorlibError, match="photos: holds no photo in color"):
        package(tiny_run, packaged, [gray], working_size=64)
    with pytest.raises(ColorlibError, match="another set is called photos too"):
        package(tiny_run, packaged, [gray, tmp_path / "b" / "photos"])
    assert {path.name: path.read_bytes() for path in packaged.iterdir()} == before


@pytest.mark.slow
def test_weights_that_a_run_started_from_are_kept_in_part(tiny_run, tiny_config, tmp_path):
    start = shutil.copytree(tiny_run, tmp_path / "start")
    config = replace(tiny_config, start=str(start), epochs=1, steps_per_epoch=1, ema=0.0)
    run = train(replace(config, learning_rate=1e-9), tmp_path / "run", verbose=0)
    with h5py.File(run / presets.WEIGHTS, "r+") as file:
        file["layers/conv2d/vars/0"][...] += 1.0
    assert package(run, tmp_path / "mixed", keep=0.25)["kept"] == 0.25
    with (
        h5py.File(tiny_run / presets.WEIGHTS) as old,
        h5py.File(tmp_path / "mixed" / presets.WEIGHTS) as new,
    ):
        for name, moved in (("layers/conv2d/vars/0", 0.75), ("layers/conv2d_1/vars/0", 0.0)):
            assert np.allclose(new[name][()], old[name][()] + moved, atol=2e-3)
    # Those of another preset, whatever it started from.
    card = package(tiny_run, tmp_path / "averaged", keep=0.5, of=run)
    assert card["kept_of"] == {"name": "run", "weights_sha256": files.sha256(run / presets.WEIGHTS)}
    with (
        h5py.File(tmp_path / "averaged" / presets.WEIGHTS) as file,
        h5py.File(tiny_run / presets.WEIGHTS) as first,
    ):
        name = "layers/conv2d/vars/0"
        assert np.allclose(file[name][()], first[name][()] + 0.5, atol=2e-3)
    before = card["weights_sha256"]
    card = package(tiny_run, tmp_path / "averaged", keep=0.5, of=tmp_path / "averaged")
    assert card["kept_of"]["weights_sha256"] == before != card["weights_sha256"]
    card = presets.load_card(run)
    presets.write_card(run, card | {"embedding": card["embedding"] | {"backbone": "MobileNetV2"}})
    with pytest.raises(ColorlibError, match="run: not the network and backbone of"):
        package(tiny_run, tmp_path / "other", keep=0.5, of=run)
    with pytest.raises(ColorlibError, match="pyramid: not the network and backbone of"):
        package(tiny_run, tmp_path / "other", keep=0.5, of="pyramid")
    with pytest.raises(ColorlibError, match="needs keep"):
        package(tiny_run, tmp_path / "other", of=run)
    with pytest.raises(ColorlibError, match="started from random weights"):
        package(tiny_run, tmp_path / "other", keep=0.5)
    with pytest.raises(ColorlibError, match="0..1"):
        package(run, tmp_path / "other", keep=2)
    shutil.copyfile(run / presets.WEIGHTS, start / presets.WEIGHTS)  # as if trained on
    with pytest.raises(ColorlibError, match=f"^{start}: .* name them with --of"):
        package(run, tmp_path / "other", keep=0.5)
    start.rename(tmp_path / "away")
    with pytest.raises(ColorlibError, match=f"^{start}: .* name them with --of"):
        package(run, tmp_path / "other", keep=0.5)
    assert not (tmp_path / "other").exists()


def test_each_preset_has_the_list_of_its_photos():
    for name in presets.preset_names():
        data = presets.load_card(name)["data"]
        table = pd.read_csv(presets.manifest(name))
        for split in ("training", "validation"):
            hashes = sorted(table.loc[table["split"] == split, "sha256"])
            assert len(hashes) == data[split]["photos"]
            assert hashlib.sha256("".join(hashes).encode()).hexdigest() == data[split]["sha256"]


def test_a_missing_list_of_photos_is_told(tiny_run, tmp_path):
    assert presets.manifest(tiny_run) == tiny_run / presets.MANIFEST
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / presets.MANIFEST).unlink()
    with pytest.raises(ColorlibError, match="manifest.csv.gz is missing"):
        presets.manifest(tmp_path / "run")
