import io

import numpy as np
import pandas as pd
import pytest
from skimage.color import lab2rgb, rgb2lab
from skimage.io import imread, imsave
from skimage.metrics import peak_signal_noise_ratio

from colorlib import ASSETS, lab, metrics, presets

SAMPLE = ASSETS / "sample"
NAMES = ["food_python3_coffee", "nature_python3_flower", "people_python3_astronaut"]
RED, BLUE, GRAY = (255, 0, 0), (0, 0, 255), (128, 128, 128)


def picture(*rows):
    return np.array(rows, dtype=np.uint8)


def faded(rgb, factor=0.5):
    """The photo with `factor` of its chroma, as an imperfect colorizer might return it."""
    return np.round(255 * lab2rgb(rgb2lab(rgb) * [1, factor, factor])).astype(np.uint8)


@pytest.fixture(scope="module")
def photos():
    return {name: imread(SAMPLE / f"{name}.jpg")[::2, ::2].copy() for name in NAMES}


@pytest.fixture(scope="module")
def frequency(photos):
    return sum(lab.ab_bin_counts(metrics.ab_of(rgb)) for rgb in photos.values())


def score_table(n, seed=0, method="model"):
    """Rows as `score` makes of `n` photos and one method, drawn from known distributions."""
    rng = np.random.default_rng(seed)
    n_pixels = rng.integers(1000, 50000, n)
    weight = n_pixels * rng.uniform(5, 50, n)
    return pd.DataFrame(
        {
            "method": method,
            "file": [f"{i}.jpg" for i in range(n)],
            "n_pixels": n_pixels,
            "mean_chroma": rng.uniform(5, 40, n),
            "near_gray": False,
            "ab_sse": 2 * n_pixels * rng.uniform(50, 400, n),
            "ab_psnr": rng.normal(24, 4, n),
            "psnr": rng.normal(22, 3, n),
            "ssim": rng.uniform(0.8, 1, n),
            "colorfulness": rng.uniform(5, 30, n),
            "truth_colorfulness": rng.uniform(20, 60, n),
            "auc_sum": n_pixels * rng.uniform(0.7, 1, n),
            "auc_balanced_sum": weight * rng.uniform(0.4, 0.8, n),
            "auc_balanced_weight": weight,
        }
    )


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        "photo.jpg",
    ],
)
def test_says_what_an_image_must_be(bad):
    good = np.zeros((4, 4, 3), np.uint8)
    for call in (metrics.ab_of, metrics.mean_chroma, metrics.colorfulness):
        with pytest.raises(ValueError, match=r"must be a uint8 RGB array \(H, W, 3\). Received"):
            call(bad)
    for call in (metrics.ab_mse, metrics.psnr, metrics.ssim, metrics.score_photo):
        with pytest.raises(ValueError, match="`output` must be a uint8.*Received"):
            call(bad, good)
        with pytest.raises(ValueError, match="must be of the shape of `truth`. Received"):
            call(good[:2], good)


def test_errors_of_a_picture_worked_out_by_hand():
    truth = picture([GRAY, GRAY], [GRAY, GRAY])
    output = picture([GRAY, RED], [GRAY, GRAY])
    # sRGB red has a = 80.09, b = 67.20 (published tables of CIE Lab, D65); gray has none.
    mse = (80.09**2 + 67.20**2) / 8
    assert metrics.ab_mse(output, truth) == pytest.approx(mse, rel=1e-3)
    assert metrics.ab_psnr(output, truth) == pytest.approx(10 * np.log10(255**2 / mse), abs=0.01)
    assert metrics.mean_chroma(output) == pytest.approx(np.hypot(80.09, 67.20) / 4, rel=1e-3)
    assert metrics.psnr(output, truth) == pytest.approx(
        10 * np.log10(255**2 / ((127**2 + 2 * 128**2) / 12))
    )
    assert metrics.ab_psnr(truth, truth) == metrics.psnr(truth, truth) == float("inf")


def test_ab_errors_ignore_lightness():
    grays = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=-1)
    assert metrics.mean_chroma(grays) < 0.01
    assert metrics.ab_mse(grays, grays[:, ::-1]) < 1e-4


def test_psnr_is_that_of_scikit_image(photos):
    for rgb in photos.values():
        output = faded(rgb)
        expected = peak_signal_noise_ratio(rgb, output, data_range=255)
        assert metrics.psnr(output, rgb) == pytest.approx(expected)


def test_ssim_is_that_of_wang(photos):
    rgb = photos["food_python3_coffee"][40:72, 60:100]
    output = faded(rgb)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def local_mean(image):
        patches = np.lib.stride_tricks.sliding_window_view(image, (11, 11))
        return (patches * window).sum(axis=(-2, -1))

    values = []
    for x, y in zip(np.moveaxis(output / 1.0, -1, 0), np.moveaxis(rgb / 1.0, -1, 0), strict=True):
        mx, my, c1, c2 = local_mean(x), local_mean(y), (0.01 * 255) ** 2, (0.03 * 255) ** 2
        vx, vy = local_mean(x * x) - mx**2, local_mean(y * y) - my**2
        cov = local_mean(x * y) - mx * my
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert metrics.ssim(output, rgb) == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 5), (10, 10), (11, 10), (11, 11)])
def test_ssim_of_small_pictures(shape):
    truth, output = np.full((*shape, 3), 100, np.uint8), np.full((*shape, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2  # constant pictures have only the luminance term
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert metrics.ssim(output, truth) == pytest.approx(expected)
    assert metrics.ssim(truth, truth) == pytest.approx(1)


def test_colorfulness_worked_out_by_hand():
    # rg is 255 and 0; yb is 127.5 and -255.
    expected = np.hypot(127.5, 191.25) + 0.3 * np.hypot(127.5, 63.75)
    assert metrics.colorfulness(picture([RED, BLUE])) == pytest.approx(expected)
    assert metrics.colorfulness(picture([GRAY, GRAY])) == 0


def test_colorfulness_falls_with_chroma(photos):
    for rgb in photos.values():
        values = [metrics.colorfulness(faded(rgb, factor)) for factor in (0, 0.3, 0.6, 1)]
        assert values == sorted(values) and values[0] < 1


def test_ab_bins_are_centered_on_multiples_of_ten():
    ab = np.array([[0, 0], [-4.9, 4.9], [5.1, 0], [-110, 110], [-128, 127]])
    counts = lab.ab_bin_counts(ab)
    assert counts.shape == (23, 23) and counts.dtype == np.int64 and counts.sum() == 5
    assert counts[11, 11] == 2 and counts[12, 11] == 1 and counts[0, 22] == 2


@pytest.mark.parametrize("error", [0, 0.5, 1, 50, 99.4, 149.2, 150, 150.1, 220])
def test_auc_of_a_constant_error(error):
    truth_ab = np.zeros((3, 4, 2))
    shares = np.array([error <= t for t in range(151)], float)
    by_definition = np.trapezoid(shares, dx=1 / 150)
    closed_form = 1 if error == 0 else max(0, 150.5 - np.ceil(error)) / 150 * (error <= 150)
    value, weight = metrics.auc(truth_ab + [0, error], truth_ab)
    assert value == pytest.approx(by_definition) == pytest.approx(closed_form)
    assert weight == 12


def test_auc_of_photos_is_the_area_by_definition(photos):
    values, weights, errors = [], [], []
    for rgb in photos.values():
        ab, truth_ab = metrics.ab_of(faded(rgb)), metrics.ab_of(rgb)
        value, weight = metrics.auc(ab, truth_ab)
        values.append(value)
        weights.append(weight)
        errors.append(np.sqrt(((ab - truth_ab) ** 2).sum(-1)).ravel())
    errors = np.concatenate(errors)
    expected = np.trapezoid([(errors <= t).mean() for t in range(151)], dx=1 / 150)
    assert np.average(values, weights=weights) == pytest.approx(expected, abs=1e-9)


def test_balanced_auc_worked_out_by_hand():
    # Training photos have nine gray pixels for one red: these weigh 10 / 9 and 10.
    frequency = np.zeros((23, 23), np.int64)
    frequency[11, 11], frequency[19, 18] = 9, 1
    truth_ab = np.array([[0, 0], [0, 0], [0, 0], [80, 70]], float)
    ab = truth_ab + [[10, 0], [10, 0], [10, 0], [0, -30]]
    expected = (3 * 10 / 9 * 140.5 + 10 * 120.5) / 150 / (3 * 10 / 9 + 10)
    value, weight = metrics.auc(ab, truth_ab, frequency)
    assert value == pytest.approx(expected)
    assert weight == pytest.approx(3 * 10 / 9 + 10)
    # An orange that no training photo has weighs as its nearest color, the red.
    orange = np.array([[60.0, 70.0]])
    assert metrics.auc(orange, orange, frequency) == (1, pytest.approx(10))


def test_balanced_by_its_own_colors_all_bins_count_alike(photos):
    rgb = photos["nature_python3_flower"]
    ab, truth_ab = metrics.ab_of(faded(rgb)), metrics.ab_of(rgb)
    bins = np.floor((truth_ab.reshape(-1, 2) + 115) / 10)
    by_bin = pd.Series(np.ceil(np.hypot(*(ab - truth_ab).reshape(-1, 2).T)))
    shares = np.where(by_bin == 0, 150, 150.5 - by_bin) / 150
    expected = pd.Series(shares).groupby([bins[:, 0], bins[:, 1]]).mean().mean()
    value, _ = metrics.auc(ab, truth_ab, lab.ab_bin_counts(truth_ab))
    assert value == pytest.approx(expected)


def test_raw_accuracy_rejects_other_arrays():
    with pytest.raises(ValueError, match="`ab_frequency` must be .* Received"):
        metrics.auc(np.zeros((5, 2)), np.zeros((5, 2)), np.zeros((23, 23)))
    with pytest.raises(ValueError, match="one shape .* Received"):
        metrics.auc(np.zeros((5, 2)), np.zeros((4, 2)))


def test_a_score_holds_what_the_functions_say(photos, frequency):
    rgb = photos["people_python3_astronaut"]
    output = faded(rgb)
    score = metrics.score_photo(output, rgb, frequency)
    for name in ("ab_psnr", "psnr", "ssim"):
        assert score[name] == pytest.approx(getattr(metrics, name)(output, rgb))
    assert score["ab_sse"] / (2 * score["n_pixels"]) == pytest.approx(metrics.ab_mse(output, rgb))
    assert score["mean_chroma"] == pytest.approx(metrics.mean_chroma(rgb))
    assert score["colorfulness"] == metrics.colorfulness(output)
    assert score["truth_colorfulness"] == metrics.colorfulness(rgb)
    assert score["near_gray"] is False
    assert metrics.score_photo(rgb, faded(rgb, 0.05))["near_gray"] is True
    assert np.isnan(metrics.score_photo(output, rgb)["auc_balanced_sum"])


def score_rows(outputs, frequency=None):
    """The table of `score` for a dict by file of (model's output, truth)."""
    rows = [
        {"method": "model", "file": file, **metrics.score_photo(output, truth, frequency)}
        for file, (output, truth) in outputs.items()
    ]
    return pd.DataFrame(rows)


def test_pooled_metrics_do_not_depend_on_how_pixels_are_cut_into_photos(photos, frequency):
    rgb = photos["food_python3_coffee"]
    output = faded(rgb)
    cut = 37
    whole = score_rows({"whole": (output, rgb)}, frequency)
    halves = {"top": (output[:cut], rgb[:cut]), "bottom": (output[cut:], rgb[cut:])}
    parts = score_rows(halves, frequency)
    pooled = ["ab_rmse", "auc", "auc_balanced"]
    one, two = (metrics.compare(t, n_bootstrap=10).loc[pooled, "value"] for t in (whole, parts))
    np.testing.assert_allclose(one, two)
    assert one["ab_rmse"] == pytest.approx(np.sqrt(metrics.ab_mse(output, rgb)))


def test_a_comparison_survives_a_csv_file(photos, frequency):
    gray = faded(photos["nature_python3_flower"], 0.05)
    outputs = {name: (faded(rgb), rgb) for name, rgb in photos.items()} | {"gray": (gray, gray)}
    scores = score_rows(outputs, frequency)
    read_back = pd.read_csv(io.StringIO(scores.to_csv(index=False)))
    compared = metrics.compare(scores, n_bootstrap=50)
    pd.testing.assert_frame_equal(compared, metrics.compare(read_back, n_bootstrap=50))
    assert (compared["photos"] == 3).all() and (compared["near_gray"] == 1).all()
    assert compared.loc["ab_psnr_mean", "value"] == pytest.approx(scores["ab_psnr"][:3].mean())
    assert compared.loc["ab_psnr_median", "value"] == pytest.approx(scores["ab_psnr"][:3].median())
    colorful = compared.loc["colorfulness"]
    assert colorful["truth"] == pytest.approx(scores["truth_colorfulness"][:3].mean())
    assert 0.3 < colorful["value"] / colorful["truth"] < 0.7  # half of the chroma
    assert (compared["low"] <= compared["value"]).all()
    assert (compared["value"] <= compared["high"]).all()
    assert compared["verdict"].isna().all()  # without a floor nothing is judged
    with pytest.raises(ValueError, match="not near-gray. Received: 1 photos of 'model'"):
        metrics.compare(scores[3:])


def test_bootstrap_intervals_are_the_analytic_ones():
    scores = score_table(600)
    summary = metrics.compare(scores, n_bootstrap=4000)
    n = len(scores)

    def expect(name, center, error):
        row = summary.loc[name]
        assert row["value"] == pytest.approx(center)
        assert row["low"] == pytest.approx(center - 1.96 * error, abs=0.15 * error)
        assert row["high"] == pytest.approx(center + 1.96 * error, abs=0.15 * error)

    expect("psnr", scores["psnr"].mean(), scores["psnr"].std() / np.sqrt(n))
    # The pooled ones by the delta method for a ratio of means.
    ratio = scores["auc_sum"].sum() / scores["n_pixels"].sum()
    spread = (scores["auc_sum"] - ratio * scores["n_pixels"]).std() / scores["n_pixels"].mean()
    expect("auc", ratio, spread / np.sqrt(n))
    mse = scores["ab_sse"].sum() / (2 * scores["n_pixels"].sum())
    residual = scores["ab_sse"] / 2 - mse * scores["n_pixels"]
    spread = residual.std() / scores["n_pixels"].mean() / (2 * np.sqrt(mse))
    expect("ab_rmse", np.sqrt(mse), spread / np.sqrt(n))


def test_bootstrap_intervals_cover_a_known_mean():
    # The mean psnr of `score_table` is 22: 95 of 100 intervals should hold it, 88 to 100 may.
    tables = (metrics.compare(score_table(100, seed), n_bootstrap=400) for seed in range(100))
    held = sum(t.loc["psnr", "low"] <= 22 <= t.loc["psnr", "high"] for t in tables)
    assert held >= 88


def test_a_seed_fixes_the_intervals():
    scores = score_table(40)
    first, again = (metrics.compare(scores, n_bootstrap=200, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert not first["low"].equals(metrics.compare(scores, n_bootstrap=200, seed=4)["low"])


def test_a_perfect_photo_leaves_no_nan():
    scores = score_table(20)
    scores.loc[3, "ab_psnr"] = np.inf
    row = metrics.compare(scores, n_bootstrap=500).loc["ab_psnr_mean"]
    assert row["value"] == row["high"] == np.inf and np.isfinite(row["low"])


def test_floors_go_the_way_of_an_output(photos):
    rgb = photos["nature_python3_flower"]
    outputs = metrics.floor_outputs(rgb, (6.0, 14.0))
    assert list(outputs) == ["gray", "mean ab"]
    lightness = rgb2lab(rgb)[..., 0]
    for output in outputs.values():
        assert output.dtype == np.uint8 and output.shape == rgb.shape
        shift = np.abs(rgb2lab(output)[..., 0] - lightness)
        assert np.quantile(shift, 0.999) <= 0.5
    assert metrics.mean_chroma(outputs["gray"]) < 0.1
    midtones = (lightness > 30) & (lightness < 80)  # where this color lies in gamut
    ab = metrics.ab_of(outputs["mean ab"])[midtones]
    np.testing.assert_allclose(ab.mean(axis=0), (6, 14), atol=0.1)
    score = metrics.score_photo(outputs["gray"], rgb)
    expected = np.mean(metrics.ab_of(rgb) ** 2)
    assert score["ab_sse"] / (2 * score["n_pixels"]) == pytest.approx(expected, rel=0.01)


def test_a_floor_must_be_a_photo():
    rgb = picture([RED, BLUE])
    with pytest.raises(ValueError, match="`truth` must be a uint8 RGB array"):
        metrics.floor_outputs(rgb / 255, (0, 0))


class Fading:
    """Stands for a Colorizer that returns photos with a part of their chroma."""

    def __init__(self, mean_ab, frequency):
        self.card = {"colors": {"mean_ab": mean_ab, "ab_counts": frequency.tolist()}}

    def colorize_batch(self, rgbs, vividness=None):
        return [faded(rgb, 0.5 if vividness is None else vividness) for rgb in rgbs]


def test_scores_hold_a_row_for_each_photo_and_method(photos, frequency, tmp_path):
    colorizer, paths = Fading((6.0, 14.0), frequency), []
    for name, rgb in photos.items():
        paths.append(tmp_path / f"{name}.png")
        imsave(paths[-1], rgb[::3, ::3].copy())
    scores = metrics.score(colorizer, paths, batch=2)
    assert list(scores.columns[:2]) == ["method", "file"]
    tables = dict(list(scores.groupby("method")))
    assert sorted(tables) == ["gray", "mean ab", "model"]
    for table in tables.values():
        assert list(table["file"]) == [path.name for path in paths]
        assert np.isfinite(table.drop(columns=["method", "file"]).to_numpy(float)).all()
    assert tables["gray"]["colorfulness"].max() < 1
    # By hand, for a photo, its output and its floors.
    rgb = imread(paths[0])
    truth, output = metrics.ab_of(rgb), metrics.ab_of(faded(rgb))
    errors = {"gray": truth, "mean ab": truth - (6, 14), "model": truth - output}
    for method, tolerance in (("gray", 0.01), ("mean ab", 0.1), ("model", 1e-9)):
        error = tables[method]["ab_sse"].iloc[0]
        assert error == pytest.approx((errors[method] ** 2).sum(), rel=tolerance)

    # Marked, to be known again.
    once_scored = scores[scores["file"] == paths[0].name].assign(ab_psnr=1.0)
    other = metrics.score(colorizer, paths[:1], vividness=1, floors=once_scored)
    assert other["ab_psnr"].iloc[0] > scores["ab_psnr"].iloc[0] and len(other) == 3
    for method in ("gray", "mean ab"):
        once = [t[t["method"] == method].iloc[0] for t in (once_scored, other)]
        pd.testing.assert_series_equal(*once, check_names=False)


def test_half_the_color_beats_both_floors(photos, frequency):
    mean_ab = np.mean([metrics.ab_of(rgb).mean(axis=(0, 1)) for rgb in photos.values()], axis=0)
    rows = []
    for file, rgb in photos.items():
        outputs = {"model": faded(rgb), **metrics.floor_outputs(rgb, mean_ab)}
        for method, output in outputs.items():
            numbers = metrics.score_photo(output, rgb, frequency)
            rows.append({"method": method, "file": file, **numbers})
    table = metrics.compare(pd.DataFrame(rows), n_bootstrap=200)
    row = table.loc["ab_rmse"]
    gray = np.sqrt(sum(r["ab_sse"] for r in rows[1::3]) / sum(r["n_pixels"] for r in rows[::3]) / 2)
    assert row["gray"] == pytest.approx(gray)
    assert row["difference"] == pytest.approx(row["value"] - min(row["gray"], row["mean ab"]))
    assert row["difference"] < 0 and row["difference_high"] < 0 and row["verdict"] == "better than"
    # Half of the chroma leaves half of gray's error.
    assert row["value"] / row["gray"] == pytest.approx(0.5, abs=0.02)
    others = table.loc[["ab_psnr_mean", "psnr", "auc", "auc_balanced"]]
    assert (others["difference_low"] > 0).all() and (others["verdict"] == "better than").all()
    assert table.loc["colorfulness", "gray"] < 1
    assert pd.isna(table.loc["colorfulness", "better_floor"])


def with_floors(model, **floors):
    """A table with the model's rows and those of `gray` and of `mean_ab`."""
    tables = [table.assign(method=name.replace("_", " ")) for name, table in floors.items()]
    return pd.concat([model, *tables], ignore_index=True)


def test_the_better_floor_is_chosen_per_metric_and_the_draws_are_paired():
    model = score_table(60)
    gray, mean = model.copy(), model.copy()
    gray["ab_psnr"] -= 1.5
    mean["ab_psnr"] -= 3
    gray["ab_sse"] *= 1.21**2
    mean["ab_sse"] *= 1.1**2
    table = metrics.compare(with_floors(model, gray=gray, mean_ab=mean), n_bootstrap=300)
    decibels, error = table.loc["ab_psnr_mean"], table.loc["ab_rmse"]
    assert decibels["better_floor"] == "gray" and error["better_floor"] == "mean ab"
    # Each photo differs by 1.5 dB, so only unpaired draws could give the interval a width.
    for name in ("difference", "difference_low", "difference_high"):
        assert decibels[name] == pytest.approx(1.5)
    assert error["relative_difference"] == pytest.approx(1 / 1.1 - 1)
    assert error["difference_low"] < error["difference"] < error["difference_high"] < 0


def test_better_and_worse_only_where_the_interval_leaves_zero_out():
    floor = score_table(60)
    better = floor.assign(ab_sse=0.25 * floor["ab_sse"])

    def compared(model, gray):
        return metrics.compare(with_floors(model, gray=gray)).loc["ab_rmse"]

    assert compared(better, floor)["verdict"] == "better than"
    assert compared(better, floor)["relative_difference"] == pytest.approx(-0.5)
    assert compared(floor, better)["verdict"] == "worse than"
    assert compared(floor, floor)["verdict"] == "no clear difference from"
    # The same mean, but each photo differs: the interval holds zero.
    other = floor.assign(ab_sse=floor["ab_sse"].to_numpy()[::-1])
    assert compared(other, floor)["verdict"] == "no clear difference from"


def test_floors_of_other_photos_are_refused():
    model = score_table(10)
    for other in (model[::-1], score_table(9), score_table(10, seed=1)):
        with pytest.raises(ValueError, match="Received: 'gray' of other photos"):
            metrics.compare(with_floors(model, gray=other))
    with pytest.raises(ValueError, match=r"the method 'model'. Received: \['gray'\]"):
        metrics.compare(model.assign(method="gray"))


@pytest.fixture(scope="module")
def two_models():
    """The scores of two models, b and a, with their floors, on a set."""
    floor = score_table(60)
    floors = {"gray": floor, "mean_ab": floor.assign(ab_psnr=26.0)}
    models = {"b": floor.assign(ab_sse=0.25 * floor["ab_sse"]), "a": floor}
    return pd.concat(with_floors(t, **floors).assign(preset=name) for name, t in models.items())


def test_models_are_compared_as_if_alone(two_models):
    both = metrics.compare(two_models, ["preset"])
    for name, scores in two_models.groupby("preset"):
        pd.testing.assert_frame_equal(both.loc[name], metrics.compare(scores))


def test_a_report_writes_the_comparison_out(two_models):
    compared = metrics.compare(two_models, ["preset"])
    report = metrics.report(compared)
    assert list(report.index[:4]) == [
        (label, name) for label in ("pooled ab-RMSE", "mean ab-PSNR, dB") for name in ("b", "a")
    ]
    row, error = report.loc["pooled ab-RMSE", "b"], compared.loc["b", "ab_rmse"]
    assert row["gray"] == f"{error['gray']:.2f}"
    assert row["model"] == f"{error['value']:.2f} [{error['low']:.2f}, {error['high']:.2f}]"
    assert row["model - better floor"].startswith(f"{error['difference']:+.2f} [-")
    assert row["original"] == "" and row["verdict"] == "better than gray"
    colorfulness = report.loc["mean colorfulness", "b"]
    assert colorfulness["original"] == f"{compared.loc['b', 'colorfulness']['truth']:.1f}"
    assert colorfulness["model - better floor"] == colorfulness["verdict"] == ""
    assert not report.isin(["nan", "+nan [+nan, +nan]"]).any(axis=None)
    alone = metrics.report(metrics.compare(two_models[two_models["preset"] == "b"]))
    assert (alone == report.xs("b", level="preset")).all(axis=None)


def test_the_readme_says_how_the_presets_fare_on_kodak24():
    verdicts = {}
    for preset in ("paper", "pyramid"):
        scores = pd.read_parquet(presets.preset_folder(preset) / presets.SCORES)
        row = metrics.compare(scores[scores["set"] == "kodak24"]).loc["ab_rmse"]
        verdicts[preset] = (row["verdict"], row["better_floor"])
    assert verdicts == {
        "paper": ("no clear difference from", "mean ab"),
        "pyramid": ("worse than", "mean ab"),  # at its default vividness
    }


def trainings(shift, by_training, photos=80, seeds=3, seed=0):
    """Scores of two arms: the other's squared errors are `shift` times those of the first."""
    rng = np.random.default_rng(seed)
    tables, own = [], score_table(photos, seed)
    for training in range(seeds):
        noise = np.exp(rng.normal(0, by_training, 2))
        for arm, factor in {"own": noise[0], "other": shift * noise[1]}.items():
            table = own.assign(arm=arm, seed=training, ab_sse=factor * own["ab_sse"])
            tables.append(table.sample(frac=1, random_state=training))  # in any order
    return pd.concat(tables)


def test_two_trainings_vary_as_two_of_many_do():
    """Where photos vary in nothing, the interval is that of the mean of two: +- sqrt(2) of half of
    what lies between them, as its variance is half of that of two."""
    table = trainings(1.0, 0.0, seeds=2)
    table["ab_psnr"] = 20.0 + (table["arm"] == "other") * (1.0 + 2.0 * table["seed"])
    row = metrics.compare_trainings(table, "own").loc["other", "ab_psnr_mean"]
    assert row["difference"] == pytest.approx(2.0)
    assert [row["low"], row["high"]] == pytest.approx([2 - 2**0.5, 2 + 2**0.5])


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "share"), [(2, 0.61), (3, 0.81)])
def test_how_often_intervals_of_few_trainings_hold_the_truth(seeds, share):
    """Where trainings are all that varies: what the function's docstring and 05_verdicts say."""
    rng, held = np.random.default_rng(1), 0
    table = trainings(1.0, 0.0, seeds=seeds).drop_duplicates(["arm", "seed"])
    columns = ["arm", "seed", "file", "near_gray", "n_pixels", "ab_psnr"]
    table = table[columns].assign(file="1.jpg")
    for _ in range(200):
        table["ab_psnr"] = 20.0 + rng.normal(size=len(table)) * (table["arm"] == "other")
        row = metrics.compare_trainings(table, "own", n_bootstrap=200).loc["other", "ab_psnr_mean"]
        held += row["low"] <= 0 <= row["high"]
    assert held / 200 == pytest.approx(share, abs=0.08)
    notebook = ASSETS.parents[1] / "notebooks" / "05_verdicts.ipynb"
    assert f"{100 * share:.0f}" in metrics.compare_trainings.__doc__
    assert f"{100 * share:.0f}" in notebook.read_text(encoding="utf-8")


def test_trainings_are_compared_over_photos_and_seeds():
    table = metrics.compare_trainings(trainings(1.21, 0.0), "own")
    row, base = table.loc["other", "ab_rmse"], table.loc["own", "ab_rmse"]
    assert row["value"] == pytest.approx(1.1 * base["value"])
    assert row["difference"] == pytest.approx(0.1 * base["value"])
    assert row["low"] > 0.05 * base["value"] and np.isnan(base["difference"])
    assert (row["seeds"], row["photos"]) == (3, 80)
    assert table.loc["other", "auc"]["difference"] == 0
    # What differs from training to training makes the interval wider than photos alone do.
    wide = metrics.compare_trainings(trainings(1.21, 0.2), "own").loc["other", "ab_rmse"]
    assert wide["high"] - wide["low"] > 3 * (row["high"] - row["low"])


def test_trainings_of_other_photos_are_refused_and_missing_numbers_left_out():
    scores = trainings(1.2, 0.1)
    few = scores[["arm", "seed", "file", "near_gray", "n_pixels", "ab_sse"]]
    table = metrics.compare_trainings(few, "own")
    assert set(table.index.get_level_values("metric")) == {"ab_rmse"}
    with pytest.raises(ValueError, match="baseline must be one of .*Received: 'none'"):
        metrics.compare_trainings(scores, "none")
    with pytest.raises(ValueError, match="the same photos"):
        metrics.compare_trainings(scores.iloc[1:], "own")


def test_scores_are_saved_with_some_digits(tmp_path):
    numbers = [123456.7, 0.00123449, 0.0, np.inf, np.nan, -98765.0]
    table = pd.DataFrame({"file": list("aabbcc"), "n": range(6), "x": numbers})
    metrics.save_scores(table, tmp_path / "scores.parquet", digits=4)
    read = pd.read_parquet(tmp_path / "scores.parquet")
    assert list(read["file"]) == list(table["file"]) and list(read["n"]) == list(range(6))
    expected = [123500.0, 0.001234, 0.0, np.inf, np.nan, -98760.0]
    np.testing.assert_allclose(read["x"], expected, rtol=1e-6)
    assert table["x"].iloc[0] == 123456.7, "the table itself stays as it is"
