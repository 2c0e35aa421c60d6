"""The regions of 05_verdicts, on pictures whose colors, sizes and errors are known."""

import numpy as np
import pytest

from colorlib import Colorizer, lab, metrics, photos
from notebooks import verdicts


def scene():
    """A photo of like lightness: blue, with a green square of 4 % and a gray third."""
    ab = np.full((200, 300, 2), (0.0, -30.0), "float32")
    ab[:, 200:] = 2.0
    ab[40:89, 50:99] = (-30.0, 30.0)
    return lab.recombine(np.full((200, 300), 60, "float32"), ab)


def test_regions_are_areas_of_like_color_whatever_their_lightness():
    truth = scene()
    stripes = np.where(np.arange(200) % 50 < 25, 50, 62)[:, None].repeat(300, 1)
    grain = np.random.default_rng(0).normal(0, 1.5, (200, 300, 2))
    striped = lab.recombine(stripes.astype("float32"), metrics.ab_of(truth) + grain)
    for picture in (truth, striped):
        area = verdicts.area_of_regions(metrics.ab_of(picture))
        assert area[60, 70] == pytest.approx(0.04, abs=0.01)
        assert area[150, 20] == pytest.approx(0.627, abs=0.02)
        assert area[100, 250] == pytest.approx(1 / 3, abs=0.02)


def test_hues_have_the_names_that_people_give_them():
    names = list(verdicts.HUES)
    colors = {(0, 110, 30): 3, (90, 150, 220): 4, (200, 150, 120): 1, (240, 60, 120): 0}
    colors |= {(150, 80, 200): 5, (230, 210, 60): 2}
    for color, group in colors.items():
        ab = metrics.ab_of(np.full((1, 1, 3), color, np.uint8))
        assert verdicts.hue_group(ab)[0, 0] == group, (color, names[group])


def test_sums_of_regions_make_the_whole_photo():
    truth = scene()
    output = lab.recombine(lab.lightness(truth), 0.5 * metrics.ab_of(truth).astype("float32"))
    table = verdicts.region_scores({"model": output, "gray": truth * 0 + 128}, truth)
    whole = table[(table["by"] == "chroma") & (table["method"] == "model")]
    assert whole["n_pixels"].sum() == truth.shape[0] * truth.shape[1]
    mse = whole["ab_sse"].sum() / whole["n_pixels"].sum() / 2
    assert mse == pytest.approx(metrics.ab_mse(output, truth))
    colored = table[(table["by"] == "hue and size") & (table["method"] == "model")]
    green = colored[colored["group"] == "green: plants"].set_index("size")
    # A rim between two regions, where the small photo mixes them, may be a region of its own.
    assert green["n_pixels"].sum() == 49 * 49 and green["n_pixels"]["1 to 10 %"] > 0.75 * 49 * 49
    kept = green["chroma"] / green["truth_chroma"]
    assert list(kept) == pytest.approx([0.5] * len(kept), abs=0.02)
    assert colored["n_pixels"].sum() == pytest.approx(40_000, rel=0.01)  # without the gray third


def test_draws_pool_photos_and_hold_the_model_against_the_better_floor():
    paths = photos.packaged("sample")["path"].tolist()[:6]
    colorizer = Colorizer.from_preset("pyramid")
    scores = verdicts.score_regions(colorizer, paths)
    colored = scores[scores["by"] == "hue and size"]
    draws = verdicts.region_draws(colored, "size", n_bootstrap=200)
    assert sum(found["share"][0] for found in draws.values()) == pytest.approx(1)
    for size, found in draws.items():
        of = colored[colored["size"] == size].groupby("method")[["ab_sse", "n_pixels"]].sum()
        rmse = np.sqrt(of["ab_sse"] / of["n_pixels"] / 2)
        floor = rmse[["gray", "mean ab"]].min()
        assert found["rmse"][0] == pytest.approx(rmse["model"])
        assert found["difference"][0] == pytest.approx(rmse["model"] / floor - 1)
        low, high = verdicts.interval(found["difference"])
        assert low < found["difference"][0] < high
    report = verdicts.regions_report(draws)
    assert set(report.index) == set(draws) and not report.isin(["nan"]).any(axis=None)
