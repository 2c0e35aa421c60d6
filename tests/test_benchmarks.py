"""The benchmarks run as one command each and tell numbers: what those are is not tested."""

import importlib
import io
import json
import math
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
import small_network

from colorlib.model import ARCHITECTURES

FOLDER = Path(__file__).parent / "benchmarks"
TINY = {
    "training_speed": "--runs paper:32 pyramid:32 --batch 2 --steps 2 --rounds 1 --peak-side 256",
    "inference_speed": "--presets paper --precisions float32 --size 64 --batch 2 --rounds 1",
    "memory": "--networks paper --presets paper --size 32 --batch 2 --steps 1 --large 300 200",
    "archive": "--preset paper --count 6 --megapixels 0.1",
    "scale": "--counts 2 3 --sizes 32 --processes 1 --batch 2 --steps 2",
}


@pytest.fixture(scope="module")
def three_photos(sample, tmp_path_factory):
    """A folder of three photos."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sample[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def start(three_photos, small_config, tmp_path, monkeypatch):
    """Runs a script in this process, with small networks in some places: its lines."""
    pyramid = ARCHITECTURES[small_config.network]
    paper = replace(pyramid, build=small_network.embedded_network, embedded=True)
    small = {"paper": paper, "pyramid": pyramid}

    def start(name, places):
        script, printed = FOLDER / f"{name}.py", io.StringIO()
        monkeypatch.setattr(
            sys, "argv", [script, *TINY[name].split(), "--photos", str(three_photos)]
        )
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.chdir(tmp_path)
        for place in places:
            monkeypatch.setitem(ARCHITECTURES, place, small[place])
        with redirect_stdout(printed), matplotlib.rc_context():
            runpy.run_path(str(script), run_name="__main__")
        return without_machine(printed.getvalue())

    return start


def process(name, *options):
    """Runs a script in a process of its own, as people do: the lines that it prints."""
    command = [sys.executable, FOLDER / f"{name}.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return without_machine(done.stdout)


def without_machine(text):
    """The lines after the first, which describes the machine."""
    first, *lines = text.splitlines()
    machine = json.loads(first)
    assert machine["processor"] and machine["versions"]["keras"]
    return lines


def check(lines, rows, count):
    """The row that begins with each of these texts has so many numbers, finite and positive."""
    for start in rows:
        found = [
            line.split() for line in lines if line.split()[: len(start.split())] == start.split()
        ]
        assert len(found) == 1, start
        numbers = [float(x) for x in found[0][len(start.split()) :]]
        assert len(numbers) == count, start
        assert all(math.isfinite(x) and x > 0 for x in numbers), start


@pytest.mark.slow
def test_training_speed(start):
    check(start("training_speed", ["paper", "pyramid"]), ["paper 32", "pyramid 32"], 8)


@pytest.mark.slow
def test_inference_speed(start):
    lines = start("inference_speed", ["pyramid"])
    check(lines, ["paper float32 1", "paper float32 2"], 7)
    networks = ["paper 64", "paper 224", "pyramid 64", "EfficientNetLite2 260"]
    check(lines, [f"{network} float32" for network in networks], 1)
    check([line for line in lines if len(line.split()) == 6], ["paper float32"], 4)
    check(lines[-1:], ["paper"], 1)


@pytest.mark.slow
def test_memory(three_photos):
    rows = [
        "import",
        "train paper",
        "colorize a 256 px photo paper",
        "colorize a 0.06 MP photo paper",
    ]
    lines = process("memory", *TINY["memory"].split(), "--photos", three_photos)
    check(lines, [*rows, "colorize a folder of 3 paper"], 2)


@pytest.mark.slow
def test_archive(three_photos):
    lines = process("archive", *TINY["archive"].split(), "--photos", three_photos)
    rows = [line for line in lines if line.split()[:1] in (["0.1"], ["6"])]
    assert len(rows) == 3 and re.fullmatch(r"the folder reaches \d+ % of .*", lines[-1])
    for row in rows:
        assert all(float(number) > 0 for number in row.split()[-3:])


@pytest.mark.slow
def test_scale(start, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    lines = start("scale", ["paper", "pyramid"])
    check(lines, ["2", "3"], 4)
    check(lines, ["paper 32", "pyramid 32", "1"], 1)
    assert (tmp_path / "scale.png").stat().st_size > 10_000


@pytest.mark.slow
def test_hostile():
    options = "--count 20 --bombs 1 --preset paper"
    lines = process("hostile", *options.split())
    told = "\n".join(lines)
    assert "no crash, a record for each" in told and "peak memory: " in told


@pytest.fixture
def script(monkeypatch):
    """Imports a script as its neighbors do; the networks that it adds are gone after the test."""
    from colorlib import model

    monkeypatch.syspath_prepend(FOLDER)
    known = dict(model.ARCHITECTURES)
    yield importlib.import_module
    model.ARCHITECTURES.clear()
    model.ARCHITECTURES.update(known)


@pytest.fixture
def peer_networks(script):
    return script("peer_networks")


def chain(channels, *filters, kernel=3):
    """The parameters of a chain of convolutions with biases."""
    pairs = zip((channels, *filters), filters, strict=False)
    return sum(kernel**2 * a * b + b for a, b in pairs)


# Computed from the published lists of layers, the first one's blocks and normalizations by hand.
PARAMETERS = {
    "zhang2016": chain(1, 64, 64, 128, 128, 256, 256, 256, *[512] * 12)
    + 4 * (64 + 128 + 256 + 4 * 512)
    + chain(512, 256, kernel=4)
    + chain(256, 256, 256)
    + chain(256, 313, kernel=1),
    # 42,169,826 with biases; instead of each of them, the four numbers of a normalization.
    "iizuka2016": chain(1, 64, 128, 128, 256, 256, 512, 512, 256)
    + chain(512, 512, 512, 512, 512)
    + chain(7 * 7 * 512, 1024, 512, 256, kernel=1)
    + chain(512, 256, kernel=1)
    + chain(256, 128, 64, 64, 32, 2)
    + 3 * (64 + 128 + 128 + 256 + 256 + 512 + 512 + 256)
    + 3 * (4 * 512 + 1024 + 512 + 256 + 256 + 128 + 64 + 64 + 32),
    # The backbone's parameters are counted in test_model.py.
    "larsson2016": 4_782_024 + chain(1 + 144 + 288 + 720 + 1280, 1024, 64, kernel=1),
    "wallner2017": chain(1, 64, 64, 128, 128, 256, 256, 512, 256, 128, 64, 32, 2),
    # The paper's 6,573,794 (table 1), and the refinement.
    "kriztoper": 6_573_794
    + chain(3, 64, 128, 128, 256, 256, 512, 512, 256, 512, 512, 512, 512)
    + chain(512, 1024, kernel=5)
    + chain(1024, 512, 128, 64, 64, 32, 32, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_peer_has_its_parameters_and_gives_colors(peer_networks, name):
    import numpy as np

    architecture = peer_networks.architectures(np.ones((23, 23)))[name]
    network = architecture.build(1000, dtype="mixed_bfloat16")
    assert network.count_params() == PARAMETERS[name]
    assert f"{PARAMETERS[name]:,}" in getattr(peer_networks, name).__doc__
    rng = np.random.default_rng(1)
    photo, embedding = rng.uniform(0, 100, (2, 64, 96, 1)), rng.normal(size=(2, 1000))
    output = network(architecture.inputs(photo.astype("float32"), embedding.astype("float32")))
    ab = architecture.decode(output)
    assert tuple(ab.shape) == (2, 64 // architecture.scale, 96 // architecture.scale, 2)
    assert np.isfinite(ab).all() and np.abs(ab).max() <= 128
    losses = architecture.loss(rng.uniform(-80, 80, (2, 64, 96, 2)).astype("float32"), output)
    assert losses.shape == (2,) and np.isfinite(losses).all()


def test_zhang_weighs_colors_by_how_rare_they_are(peer_networks):
    import numpy as np

    from colorlib.model import ab_bins

    bins = peer_networks.zhang_bins()
    assert len(set(map(tuple, bins))) == 313 and set(map(tuple, ab_bins())) < set(map(tuple, bins))
    counts = np.zeros((23, 23))
    counts[11, 11] = 1000  # all photos gray
    weights = peer_networks.rebalancing(counts)
    gray, far = (bins == 0).all(axis=1).argmax(), np.abs(bins).sum(axis=1).argmax()
    # The Gaussian leaves a share of 1 / (1 + 2 exp(-2) + 2 exp(-8))^2 in the bin itself.
    share = 1 / (1 + 2 * np.exp(-2) + 2 * np.exp(-8)) ** 2
    assert weights[far] / weights[gray] == pytest.approx(1 + 313 * share, rel=1e-3)


def test_zhang_anneals_the_mean(peer_networks):
    import numpy as np

    bins = peer_networks.zhang_bins()
    logits = np.full((1, 1, 1, 313), -100, "float32")
    logits[..., 40], logits[..., 200] = 1.0, 1.38
    expected = (bins[40] + np.e * bins[200]) / (1 + np.e)
    assert np.allclose(peer_networks.annealed_mean(logits), expected, atol=1e-3)


@pytest.mark.parametrize("color", [(30.0, 40.0), (-60.0, 2.0), (-5.0, -70.0), (4.0, 0.0)])
def test_larsson_finds_the_color_of_its_own_histograms(peer_networks, color):
    """Of one color everywhere, the loss is lowest at the logits that stand for that color."""
    import numpy as np

    chroma, hue = np.hypot(*color), np.degrees(np.arctan2(color[1], color[0])) % 360
    centers = np.arange(32) + 0.5
    away = np.abs(hue / 11.25 - centers)
    shares = [np.minimum(away, 32 - away), np.abs(max(chroma / 4, 0.5) - centers)]
    shares = np.concatenate([np.maximum(1 - x, 0) for x in shares]).astype("float32")
    logits = np.log(shares + 1e-9)[None, None, None]
    found = np.asarray(peer_networks.median_chroma_and_mean_hue(logits))[0, 0, 0]
    assert np.abs(np.hypot(*found) - chroma) <= 2.1
    assert np.abs((np.degrees(np.arctan2(found[1], found[0])) - hue + 180) % 360 - 180) < 1
    ab = np.full((1, 4, 4, 2), color, "float32")
    best = float(peer_networks.histogram_losses(ab, logits)[0])
    rng = np.random.default_rng(1)
    for _ in range(5):
        other = logits + rng.normal(0, 0.5, logits.shape).astype("float32")
        assert float(peer_networks.histogram_losses(ab, other)[0]) > best


def test_multiply_adds_are_those_counted_by_hand(script):
    import keras
    import numpy as np
    from keras import layers

    shared = layers.Conv2D(4, 3, padding="same")
    inner_input = keras.Input((None, None, 4))
    inner = keras.Model(inner_input, layers.DepthwiseConv2D(5, 2, padding="same")(inner_input))
    inner.trainable = False
    x = photo = keras.Input((None, None, 4))
    x = shared(shared(x))  # twice 8 x 6 places, each 3 * 3 * 4 * 4
    x = inner(x)  # frozen: 4 x 3 places, each 5 * 5 * 4
    x = layers.Conv2DTranspose(2, 4, 2, padding="same")(x)  # from 4 x 3 places, each 4 * 4 * 4 * 2
    x = layers.Dense(7)(layers.GlobalAveragePooling2D()(x))  # 2 * 7
    count = script("trained").multiply_adds
    expected = (2 * 48 * 144 + 12 * 128 + 14, 12 * 100)
    assert count(keras.Model(photo, x), np.zeros((1, 8, 6, 4), "float32")) == expected


@pytest.mark.slow
def test_arms_are_compared_and_not_trained_again_or_mixed_with_others(
    script, small_config, tmp_path, monkeypatch, capsys
):
    import pandas as pd

    from colorlib import photos

    packaged = photos.packaged("sample")
    for name, chosen in {"many": packaged["path"][:12], "few": packaged["path"][12:14]}.items():
        (tmp_path / name).mkdir()
        for path in chosen:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(photos, "packaged", lambda kind: packaged[14:16])
    ablation = script("ablation")
    small = replace(
        ARCHITECTURES[small_config.network], build=small_network.embedded_network, embedded=True
    )
    monkeypatch.setitem(ARCHITECTURES, "paper", small)

    def run(*more, photos="many"):
        options = f"--photos {photos} --validation few --output out --evaluate few=few --seeds 1"
        ablation.main([*options.split(), "--only", "own", "shuffled", *more])

    run("--crops", "192", "--precision", "float32")
    table = pd.read_parquet("out/ablation.parquet")
    arms = {"own", "own_128", "swapped", "averaged", "blank", "shuffled"}
    counts = table.groupby(["arm", "set"], observed=True).size().unstack()
    assert set(counts) == {"few", "sample"} and (counts == 2).all(axis=None)
    assert set(table["arm"]) == arms and set(table["seed"]) == {1}
    scored = table[table["arm"].isin(["swapped", "averaged", "blank"])]
    assert (scored["moved"] > 0).all() and table[table["arm"] == "own"]["moved"].isna().all()
    assert "differences from own" in capsys.readouterr().out
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.npz")}
    assert len(trained) == 2
    run("--crops", "192", "--precision", "float32")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.npz")} == trained
    capsys.readouterr()
    for more, said in (
        (["--crops", "96"], "began with other settings (crops: 192 -> 96)"),
        (["--crops", "192", "--evaluate", "more=few"], "began with other settings (sets: "),
        (["--crops", "192", "--count", "9"], "began with other settings (photos: 12 -> 9, "),
        (["--precision", "flaot32"], "precision"),
        (["--seeds", "-1"], "seed"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(*more)
        assert stop.value.code == 1 and said in capsys.readouterr().err
    pd.testing.assert_frame_equal(pd.read_parquet("out/ablation.parquet"), table)


@pytest.mark.slow
def test_peers_are_compared_and_not_trained_again(
    script, small_config, tmp_path, monkeypatch, capsys
):
    import numpy as np

    from colorlib import photos
    from notebooks import verdicts

    packaged = photos.packaged("sample")
    for name, chosen in {"many": packaged["path"][:16], "few": packaged["path"][16:19]}.items():
        (tmp_path / name).mkdir()
        for path in chosen:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(photos, "packaged", lambda kind: packaged[::9])
    peers = script("peers")
    monkeypatch.setattr(peers, "SHOWN", 4)
    small = ARCHITECTURES[small_config.network]
    monkeypatch.setattr(peers, "architectures", lambda counts: {"wallner2017": small})

    def run(minutes):
        options = "--photos many --validation few --output peers --evaluate few=few --size 32"
        options += f" --batch 4 --only wallner2017 --minutes {minutes}"
        peers.main(options.split())

    run(0.05)
    folder = tmp_path / "peers"
    scores = verdicts.peer_scores(folder)
    counts = scores.groupby(["network", "set"]).size().unstack()
    assert set(counts.index) == {"wallner2017", "gray", "mean ab"}
    assert (counts == [3, len(packaged[::9])]).all(axis=None)
    costs = verdicts.peer_costs(folder)
    assert list(costs.index) == ["wallner2017"]
    (cost,) = costs.to_dict("records")
    assert cost["crops"] == 6 * 4 * cost["steps"]
    assert cost["parameters"] == small.build().count_params()
    assert cost["learning_rate"] in (1e-3, 3e-4)
    maps = np.load(folder / "wallner2017.npz")
    assert len(maps) == 4 and {ab.dtype for ab in maps.values()} == {np.dtype("int8")}
    printed = capsys.readouterr().out
    assert "of them trained" in printed and "the originals" in printed
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.npz")}
    assert len(trained) == 2  # a run for each learning rate
    run(0.05)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.npz")} == trained
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(0.06)
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("peers: began with other settings (min")
    options = "--photos many --validation few --output new --only wallner2017 --precision flaot32"
    with pytest.raises(SystemExit) as stop:
        peers.main(options.split())
    assert stop.value.code == 1 and "precision" in capsys.readouterr().err
    assert not Path("new").exists(), "what is refused is not kept as the settings to give"


@pytest.mark.slow
def test_a_stopped_comparison_goes_on(script, sample, tmp_path, monkeypatch):
    """At the second learning rate it is stopped; then the better of both goes on to the end."""
    import numpy as np
    import pandas as pd

    from colorlib import model

    peers = script("peers")
    model.ARCHITECTURES.update(peers.architectures(np.ones((23, 23))))
    config = peers.recipe("wallner2017", sample[:6], tuple(sample[6:8]), size=32, batch=4)
    train, began = peers.training.train, []

    def stopped(config, run):
        began.append(run)
        if len(began) == 2:
            raise KeyboardInterrupt
        return train(config, run)

    monkeypatch.setattr(peers.training, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        peers.train(tmp_path, config, (1e-3, 3e-4), steps=1)
    before = pd.read_csv(began[0] / "history.csv")
    run = peers.train(tmp_path, config, (1e-3, 3e-4), steps=1)
    assert began[2:] == [tmp_path / "rate-0.0003", run]  # The first rate isn't tried again.
    histories = {path.parent: pd.read_csv(path) for path in tmp_path.rglob("history.csv")}
    assert {path: len(rows) for path, rows in histories.items()} == {
        path: 6 if path == run else 1 for path in (began[0], began[1])
    }
    assert before.equals(histories[began[0]][:1])
    first = {path: rows["val_loss"][0] for path, rows in histories.items()}
    assert run == min(first, key=first.get)


@pytest.fixture
def ablation(script):
    module = script("ablation")
    module.register()
    return module


def test_the_arms_of_the_ablation_differ_in_one_thing_each(ablation):
    import numpy as np

    from colorlib import model

    networks = {name: model.ARCHITECTURES[arm.network] for name, arm in ablation.ARMS.items()}
    built = {name: network.build(1000) for name, network in networks.items()}
    counts = {name: network.count_params() for name, network in built.items()}
    assert counts["own"] == counts["shuffled"] == counts["constant"] == counts["random"]
    assert counts["own"] - counts["none"] == 1000 * 256, "the fusion's kernel of the embedding"
    assert counts["pyramid"] == counts["scratch"]
    light, embedding = np.zeros((1, 64, 96, 1), "float32"), np.zeros((1, 1000), "float32")
    for name, network in built.items():
        output = network(networks[name].inputs(light, embedding))
        scale = networks[name].scale
        assert networks[name].decode(output).shape == (1, 64 // scale, 96 // scale, 2), name
        loss = networks[name].loss(np.zeros((1, 64, 96, 2), "float32"), output)
        assert loss.shape == (1,) and float(loss[0]) >= 0, name
    trained = {
        name: sum(math.prod(w.shape) for w in built[name].trainable_weights)
        for name in ("pyramid", "scratch")
    }
    assert trained["scratch"] > trained["pyramid"], "its lower blocks are trained as well"


def test_embeddings_are_what_an_arm_says(ablation):
    import numpy as np

    own = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
    others = {"constant": own.mean(axis=0), "blank": np.ones(8, "float32")}
    for seed in (1, 2):
        shuffled = ablation.told("shuffled", own, others, seed)
        assert not (shuffled == own).all(axis=1).any(), "nobody gets their own"
        assert sorted(map(tuple, shuffled)) == sorted(map(tuple, own)), "everybody's is used once"
        np.testing.assert_array_equal(shuffled, ablation.told("shuffled", own, others, seed))
    assert (ablation.told("shuffled", own, others, 1) != shuffled).any()
    np.testing.assert_array_equal(ablation.told("own", own, others, 1), own)
    for name, told in others.items():
        np.testing.assert_array_equal(ablation.told(name, own, others, 1), np.tile(told, (40, 1)))
