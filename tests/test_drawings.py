"""What the notebooks' drawings show is what they were given."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from skimage.color import rgb2lab

from colorlib import lab, photos
from colorlib.model import ab_bins, paper_network, pyramid_network
from notebooks import drawings, figures


def drawn(axes):
    """The curves of a panel by their labels."""
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_runs_are_compared_by_the_error_that_they_share():
    floors = {"gray": 0.02, "mean ab": 0.017}
    steps = [{"step": 10, "loss": 0.016, "val_loss": 0.018}]
    steps += [{"step": 20, "loss": 0.012, "val_loss": 0.014}]
    entropy = [{"step": 30, "loss": 4.1, "val_loss": 3.9, "val_mse": 0.016}]
    entropy += [{"step": 60, "loss": 3.2, "val_loss": 4.0, "val_mse": 0.011}]
    history = [row | {"val_mse": row["val_loss"]} for row in steps]
    paper = {"name": "paper", "history": history, "floors": floors}
    pyramid = {"name": "pyramid", "history": entropy, "floors": floors}
    left, right = drawings.history_figure(paper, pyramid).axes
    (alone,) = drawings.history_figure(paper).axes
    assert drawn(left) == drawn(alone)
    assert drawn(left)["training crops"] == [0.016, 0.012]
    assert drawn(left)["kept"] == [0.014]
    assert drawn(right)["held-out crops"] == [0.016, 0.011]
    assert drawn(right)["kept"] == [0.016], "kept is the round of the lowest loss of its own"
    assert "training crops" not in drawn(right)
    low, high = right.get_ylim()
    assert left.get_ylim() == (low, high) and low < 0.011 and 0.02 < high < 1


def test_layers_are_told_by_their_shapes():
    network = paper_network(10)
    table = drawings.layer_table(network).set_index("layer")
    assert table["parameters"].sum() == network.count_params()
    encoder = table.filter(regex="^encoder", axis="index")
    assert list(encoder["height"]) == [112, 112, 56, 56, 28, 28, 28, 28]
    assert list(table.loc["ab", ["height", "width", "channels"]]) == [224, 224, 2]
    assert table.loc["encoder_1", "operation"] == "convolution 3×3, stride 2, relu"


def test_the_parts_of_pyramid_have_all_its_parameters():
    network = pyramid_network()
    table = drawings.pyramid_table(network, size=256)
    parts, whole = table.iloc[:-1], table.loc["all"]
    assert parts["parameters"].sum() == whole["parameters"] == network.count_params()
    trained = sum(np.prod(weight.shape) for weight in network.trainable_weights)
    assert parts["trained"].sum() == whole["trained"] == trained
    assert table.loc["backbone", "parameters"] == network.get_layer("body").count_params()
    assert list(table["side"].iloc[1:-1]) == [8, 16, 32, 64, 64]
    assert list(table["channels from the backbone"].iloc[1:5]) == [1280, 720, 288, 144]
    assert list(table["channels out"].iloc[1:-1]) == [192, 256, 64, 64, len(ab_bins())]


def test_pyramid_is_drawn_as_it_is_built():
    network = pyramid_network()
    (axes,) = drawings.pyramid_figure(network, size=256).axes
    written = {text.get_text() for text in axes.texts}
    table = drawings.pyramid_table(network, size=256).loc[[f"stride {n}" for n in (4, 8, 16, 32)]]
    for stride, row in zip((4, 8, 16, 32), table.itertuples(), strict=True):
        lateral = network.get_layer(f"lateral_{stride}").filters
        assert f"{lateral} channels" in written
        for channels in (row[2], row[3]):  # those of the backbone, and those that come out
            assert f"{row.side:.0f}²\n× {channels:,.0f}" in written
    backbone = network.get_layer("body").count_params()
    rest = network.count_params() - backbone
    assert {f"Backbone\n{backbone:,} parameters", f"Decoder\n{rest:,} parameters"} <= written
    # A square for each map, of its size.
    widths = sorted(patch.get_width() for patch in axes.patches)
    assert widths == pytest.approx(sorted(2 * [1.15 / 2**n for n in range(4)]))


def test_the_pipeline_shows_what_the_network_computes(colorizers):
    colorizer = colorizers("paper")
    photo = photos.read(photos.packaged("sample")["path"][0])
    figure = drawings.pipeline_figure(colorizer, photo)
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes}
    image = {title: axes.images[0].get_array() for title, axes in shown.items() if axes.images}
    np.testing.assert_array_equal(image["photo"], photo)
    np.testing.assert_array_equal(image["its lightness L"], lab.gray(photo))
    output = np.int16(image["L with these a and b"])
    assert np.abs(output - colorizer.colorize(photo)).max() <= 2
    (line,) = shown["embedding: 1,000 numbers"].lines
    embedding = colorizer.embed([lab.lightness(photo)])[0]
    np.testing.assert_allclose(line.get_ydata(), embedding, rtol=1e-5)
    assert image["9 of 256 fused features"].max() > 0


def test_a_block_has_all_pictures_of_its_photo():
    gray, output = np.zeros((40, 60), np.uint8), np.full((40, 60, 3), 90, np.uint8)
    blocks = [[gray, output, output], [gray, output, output]]
    figure = drawings.block_grid(blocks, [["gray", "one", "two"]] * 2, ["cat", "dog"])
    assert len(figure.axes) == 6
    written = [text.get_text() for text in figure.texts if text.get_text()]
    assert sorted(written) == sorted([*["gray", "one", "two"] * 2, "cat", "dog"])


def test_halves_and_trim_cut_where_they_should():
    left, right = np.full((20, 30), 50, np.uint8), np.full((20, 30, 3), 200, np.uint8)
    picture = drawings.halves(left, right)
    assert picture.shape == (20, 30, 3)
    assert (picture[:, :14] == 50).all() and (picture[:, 16:] == 200).all()
    assert (picture[:, 14:16] == 255).all()
    rows = np.arange(40)[:, None].repeat(20, 1)
    assert drawings.trim(rows, top=0.0)[:, 0].tolist() == list(range(20))
    assert drawings.trim(rows, top=1.0)[:, 0].tolist() == list(range(20, 40))
    assert drawings.trim(rows.T, 2)[0].tolist() == list(range(40))
    assert drawings.trim(rows.T, 1)[0].tolist() == list(range(10, 30))


def test_no_number_on_an_axis_is_smaller_than_the_text():
    ab = np.random.default_rng(1).normal(0, 10, (100_000, 2))
    with matplotlib.rc_context(figures.STYLE):
        figure = drawings.color_figure(ab, np.array([5.0, 12.0]))
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert "$\\mathdefault{100}$" in {text.get_text() for text in texts}  # on the color bar
        assert all("^" not in text.get_text() for text in texts)
        assert min(text.get_size() for text in texts) == figures.TEXT


def test_a_distribution_is_drawn_where_its_colors_are():
    photo, bins = np.full((80, 120, 3), 120, np.uint8), ab_bins()
    probability = np.zeros(len(bins), "float32")
    at = {(20, 30): 0.75, (-10, -20): 0.25}
    for color, share in at.items():
        probability[(bins == color).all(1)] = share
    answers = {"vividness 0": np.array([12.5, 17.5]), "vividness 1": np.array([20.0, 30.0])}
    figure = drawings.distribution_figure(photo, (40, 60), probability, (15.0, 25.0), answers)
    _, plane, patches = figure.axes
    (circles,) = plane.collections
    areas = dict(zip(map(tuple, circles.get_offsets().tolist()), circles.get_sizes(), strict=True))
    assert areas[20, 30] == pytest.approx(3 * areas[-10, -20]) and sum(areas.values()) < 2100
    assert [list(line.get_xdata()) for line in plane.lines] == [[12.5, 20.0], [12.5], [15.0]]
    assert [label.get_text() for label in patches.get_yticklabels()] == [*answers, "true"]
    # The patches are those colors, at the lightness of the place.
    shown = rgb2lab(patches.images[0].get_array()[:, 0])
    np.testing.assert_allclose(shown[:, 1:], [[12.5, 17.5], [20, 30], [15, 25]], atol=1)
    assert np.ptp(shown[:, 0]) < 1


def test_differences_are_drawn_with_their_intervals():
    rows = [(arm, name) for name in ("val", "kodak24") for arm in ("none", "shuffled")]
    table = pd.DataFrame(rows, columns=["arm", "set"])
    table["difference"] = [0.5, -0.2, 0.3, 0.1]
    table["low"], table["high"] = table["difference"] - 0.1, table["difference"] + [0.2] * 4
    (axes,) = drawings.forest_figure(table, ["shuffled", "none"], "title", "difference").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["shuffled", "none"]
    for container, values in zip(axes.containers, [[-0.2, 0.5], [0.1, 0.3]], strict=True):
        points, _, (bars,) = container
        assert list(points.get_xdata()) == values
        ends = [sorted(segment[:, 0]) for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [[v - 0.1, v + 0.2] for v in values])
    assert [container.get_label() for container in axes.containers] == ["val", "kodak24"]


def test_kept_chroma_is_drawn_for_each_preset_and_group():
    rng = np.random.default_rng(1)
    kept = {"paper": 0.3, "pyramid": 0.6}
    draws = {
        (preset, by): {
            group: {"kept": np.append(share, rng.uniform(share - 0.1, share + 0.1, 500))}
            for group in groups
        }
        for preset, share in kept.items()
        for by, groups in {"size": ["under 1 %", "over 10 %"], "group": ["green: plants"]}.items()
    }
    upper, lower = drawings.regions_figure(draws, kept).axes
    for axes, count in ((upper, 2), (lower, 1)):
        widths = sorted(round(patch.get_width()) for patch in axes.patches)
        assert widths == [30] * count + [60] * count
    assert [label.get_text() for label in lower.get_yticklabels()] == ["green"]
