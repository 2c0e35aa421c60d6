"""How close an output comes to the original, per photo and over a set, beside two floors.

Images are uint8 RGB arrays (H, W, 3): the 8-bit picture that a user gets is judged, not the
network's floats. Lab is CIE Lab (D65, 2 degrees) by scikit-image, computed and summed in float64.
Wrong shapes or types raise a ValueError.

`score` makes a table with a row per photo and method: the model, and the two floors, which give
the same photo one constant color. `compare` turns it into metrics with intervals and holds the
model against the better floor; `report` writes that out to be read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity

from colorlib import lab, photos
from colorlib.files import write_atomically

AUC_LIMIT = 150  # the largest threshold on an ab error


def _check_image(name, image):
    dtype, shape = getattr(image, "dtype", type(image)), getattr(image, "shape", ())
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f"`{name}` must be a uint8 RGB array (H, W, 3). Received: dtype={dtype}, shape={shape}"
        )


def _check_pair(output, truth):
    _check_image("output", output)
    _check_image("truth", truth)
    if output.shape != truth.shape:
        raise ValueError(
            "`output` must be of the shape of `truth`. "
            f"Received: output.shape={output.shape}, truth.shape={truth.shape}"
        )


def _decibels(mse):
    return float(10 * np.log10(255**2 / mse)) if mse else float("inf")


def ab_of(rgb):
    """The a and b of an image (H, W, 3): float64 array (H, W, 2) in units of Lab."""
    _check_image("rgb", rgb)
    return rgb2lab(rgb)[..., 1:]


def _chroma(ab):
    return float(np.hypot(ab[..., 0], ab[..., 1]).mean())


def mean_chroma(rgb):
    """The mean over pixels of sqrt(a^2 + b^2), in units of Lab; below 4 a photo is near-gray."""
    return _chroma(ab_of(rgb))


def ab_mse(output, truth):
    """The mean squared error of a and b, over both channels and all pixels."""
    _check_pair(output, truth)
    return float(np.mean((ab_of(output) - ab_of(truth)) ** 2))


def ab_psnr(output, truth):
    """10 log10(255^2 / `ab_mse`) in dB; infinite for equal images."""
    return _decibels(ab_mse(output, truth))


def psnr(output, truth):
    """10 log10(255^2 / MSE) in dB over the three RGB channels; infinite for equal images."""
    _check_pair(output, truth)
    return _decibels(np.mean((output.astype(np.float64) - truth) ** 2))


def ssim(output, truth):
    """Structural similarity of Wang et al. 2004, the mean of the RGB channels; 1 when equal.

    Gaussian window of 11 x 11 pixels (sigma 1.5), population covariance, K1 = 0.01, K2 = 0.03,
    data range 255. An image less than 11 pixels high or wide gets the largest Gaussian window
    that fits, with a smaller sigma.
    """
    _check_pair(output, truth)
    radius = min(5, (min(truth.shape[:2]) - 1) // 2)
    # scikit-image cuts the window at 3.5 sigma, rounded; 1.5 gives the radius 5.
    sigma = 1.5 if radius == 5 else radius / 3.5
    settings = {"gaussian_weights": True, "sigma": sigma, "use_sample_covariance": False}
    return float(structural_similarity(truth, output, channel_axis=2, data_range=255, **settings))


def colorfulness(rgb):
    """Colorfulness M(3) of Hasler and Süsstrunk 2003; 0 for a gray image (H, W, 3).

    With rg = R - G and yb = (R + G) / 2 - B, their population standard deviations s and means m
    over the pixels: sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2). The paper calls 15
    slightly, 33 moderately, 45 averagely and 59 quite colorful. The code of CT2, ColorFormer and
    DDColor takes |rg| and |yb| instead; their numbers are not comparable to these.
    """
    _check_image("rgb", rgb)
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread = np.sqrt(opponents.var(axis=(1, 2)).sum())
    return float(spread + 0.3 * np.hypot(*opponents.mean(axis=(1, 2))))


def _bin_weights(ab_frequency):
    """One over the frequency of each bin; a bin never seen weighs as its nearest seen one."""
    counts = np.asarray(ab_frequency, np.float64)
    if counts.shape != (lab.AB_BINS, lab.AB_BINS) or not ((counts >= 0).all() and counts.any()):
        raise ValueError(
            f"`ab_frequency` must be a sum of `lab.ab_bin_counts` ({lab.AB_BINS}, {lab.AB_BINS}). "
            f"Received: shape={counts.shape}, sum={counts.sum()}"
        )
    seen = np.argwhere(counts)
    distance = ((np.indices(counts.shape)[..., None] - seen.T[:, None, None]) ** 2).sum(axis=0)
    nearest = seen[distance.argmin(axis=-1)]
    return counts.sum() / counts[nearest[..., 0], nearest[..., 1]]


def auc(ab, truth_ab, ab_frequency=None):
    """Raw accuracy (Zhang et al. 2016, section 3.1): the area under the cumulative ab errors.

    The share of pixels whose error is at most t, for t = 0, 1, ... 150, integrated by the
    trapezoidal rule and divided by 150. A pixel with an error e in (0, 150] adds
    (150.5 - ceil(e)) / 150 to it, an exact one adds 1.

    Args:
        ab: array (..., 2). The output's a and b, in units of Lab (see `ab_of`).
        truth_ab: array (..., 2). The original's.
        ab_frequency: array (23, 23). The sum of `lab.ab_bin_counts` over the training photos. Each
            pixel then weighs one over the frequency of its true ab bin (Zhang et al. 2016, eq. 4
            with lambda = 0, without their smoothing). A bin that no training photo has takes the
            weight of the nearest one that some have, as Zhang et al. code a color by the nearest
            of their 313 bins. Count all training photos: a color that is rare among few photos
            lets one output decide the whole. Defaults to None: each pixel weighs 1.

    Returns:
        Two floats: the accuracy in 0..1 (1 for exact colors), and the sum of the pixels' weights,
        by which accuracies of several photos are averaged.
    """
    ab, truth_ab = np.asarray(ab, np.float64), np.asarray(truth_ab, np.float64)
    if ab.shape != truth_ab.shape or ab.shape[-1:] != (2,):
        raise ValueError(
            "`ab` and `truth_ab` must be of one shape (..., 2). "
            f"Received: ab.shape={ab.shape}, truth_ab.shape={truth_ab.shape}"
        )
    error = np.ceil(np.hypot(*np.moveaxis(ab - truth_ab, -1, 0)))
    area = np.where(error == 0, 1, np.maximum(AUC_LIMIT + 0.5 - error, 0) / AUC_LIMIT)
    weights = np.ones(error.shape)
    if ab_frequency is not None:
        weights = _bin_weights(ab_frequency)[lab.ab_bin(truth_ab)]
    return float(np.average(area, weights=weights)), float(weights.sum())


def score_photo(output, truth, ab_frequency=None):
    """All numbers of one photo: a row of the table that `compare` reads.

    Args:
        output: uint8 array (H, W, 3). The colorized photo.
        truth: uint8 array (H, W, 3). The original.
        ab_frequency: array (23, 23) or None, as in `auc`; without it the two numbers of the
            class-balanced accuracy are NaN.

    Returns:
        dict of numbers: the metrics above by their names; `mean_chroma`, `near_gray` and
        `truth_colorfulness`, of the original; and for pooling over photos `n_pixels`, `ab_sse`
        (the squared ab errors summed over both channels and all pixels), `auc_sum` (the accuracy
        times `n_pixels`), `auc_balanced_weight` (the sum of the pixels' weights) and
        `auc_balanced_sum` (the class-balanced accuracy times that).
    """
    _check_pair(output, truth)
    ab, truth_ab = ab_of(output), ab_of(truth)
    n_pixels = truth.shape[0] * truth.shape[1]
    ab_sse = float(((ab - truth_ab) ** 2).sum())
    chroma = _chroma(truth_ab)
    accuracy, _ = auc(ab, truth_ab)
    balanced, weight = np.nan, np.nan
    if ab_frequency is not None:
        balanced, weight = auc(ab, truth_ab, ab_frequency)
    return {
        "n_pixels": n_pixels,
        "mean_chroma": chroma,
        "near_gray": chroma < lab.NEAR_GRAY,
        "ab_sse": ab_sse,
        "ab_psnr": _decibels(ab_sse / (2 * n_pixels)),
        "psnr": psnr(output, truth),
        "ssim": ssim(output, truth),
        "colorfulness": colorfulness(output),
        "truth_colorfulness": colorfulness(truth),
        "auc_sum": accuracy * n_pixels,
        "auc_balanced_sum": balanced * weight,
        "auc_balanced_weight": weight,
    }


def floor_colors(mean_ab):
    """The floors: dict by name of the one color (a, b) that a floor gives to every pixel.

    Args:
        mean_ab: two numbers. The mean a and b over the training photos, in units of Lab.
    """
    return {"gray": (0.0, 0.0), "mean ab": tuple(mean_ab)}


def floor_outputs(truth, mean_ab):
    """What a colorizer must beat: the photo with one color everywhere, beside its own L.

    Args:
        truth: uint8 array (H, W, 3). sRGB.
        mean_ab: two numbers, as for `floor_colors`.

    Returns:
        dict of uint8 arrays (H, W, 3): `gray`, without color, and `mean ab`.
    """
    _check_image("truth", truth)
    lightness = lab.lightness(truth)
    return {
        name: lab.recombine(lightness, np.full((*truth.shape[:2], 2), color, np.float32))
        for name, color in floor_colors(mean_ab).items()
    }


def colored_photos(colorizer, paths, vividness=None, batch=16):
    """Reads color photos and colors them, some at a time.

    Args:
        colorizer: Colorizer.
        paths: list of paths.
        vividness: as for `Colorizer.colorize`.
        batch: int. Photos read at a time. Defaults to 16.

    Yields:
        (path, truth, output): the two are uint8 arrays (H, W, 3).
    """
    for start in range(0, len(paths), batch):
        chunk = paths[start : start + batch]
        truths = [photos.to_uint8(photos.read(path)) for path in chunk]
        colored = colorizer.colorize_batch(truths, vividness)
        yield from zip(chunk, truths, colored, strict=True)


def score(colorizer, paths, *, vividness=None, floors=None, batch=16):
    """Scores a colorizer, and the floors, on photos whose colors are known.

    Args:
        colorizer: Colorizer.
        paths: list of paths.
        vividness: as for `Colorizer.colorize`.
        floors: pandas.DataFrame or None. An earlier result for the same photos: its floors are
            taken over instead of scored again. Defaults to None.
        batch: int. Photos read at a time. Defaults to 16.

    Returns:
        pandas.DataFrame, a row per photo and method: `method` ("model", "gray", "mean ab"),
        `file` (its name) and the numbers of `score_photo`.
    """
    colors = colorizer.card["colors"]
    frequency = np.array(colors["ab_counts"], "float64")
    rows = []
    for path, truth, output in colored_photos(colorizer, paths, vividness, batch):
        outputs = {"model": output}
        if floors is None:
            outputs |= floor_outputs(truth, colors["mean_ab"])
        for method, rgb in outputs.items():
            numbers = score_photo(rgb, truth, frequency)
            rows.append({"method": method, "file": Path(path).name, **numbers})
    table = pd.DataFrame(rows)
    if floors is not None:
        table = pd.concat([table, floors[floors["method"] != "model"]], ignore_index=True)
    return table


def save_scores(scores, path, digits=6):
    """Writes a table of scores as a small Parquet file, of which a reader sees all or nothing.

    Args:
        scores: pandas.DataFrame.
        path: path.
        digits: int. The significant digits of its numbers that are kept. Defaults to 6.
    """
    scores = scores.copy()
    numbers = [name for name, column in scores.items() if column.dtype.kind == "f"]
    for name in numbers:
        rounded = [float(f"{value:.{digits}g}") for value in scores[name]]
        scores[name] = np.array(rounded, "float32")
    names = [name for name in scores if name not in numbers]
    # The bytes of floats are compressed by their place: this saves a third.
    encoding = {"use_dictionary": names, "use_byte_stream_split": numbers}
    options = {"compression": "zstd", "compression_level": 22, "index": False}
    write_atomically(path, lambda part: scores.to_parquet(part, **options, **encoding))


def _mean(column):
    return lambda scores: scores[column].mean(axis=-1)


def _pooled(part, whole):
    return lambda scores: scores[part].sum(axis=-1) / scores[whole].sum(axis=-1)


class _Metric(NamedTuple):
    label: str
    form: str
    better: int  # 1: more is better; -1: less is; 0: neither, shown but not judged
    of: Callable  # dict of columns (..., photos) -> (...): thousands of resamples are one call


_METRICS = {
    "ab_rmse": _Metric(
        "pooled ab-RMSE",
        "{:.2f}",
        -1,
        lambda scores: np.sqrt(_pooled("ab_sse", "n_pixels")(scores) / 2),
    ),
    "ab_psnr_mean": _Metric("mean ab-PSNR, dB", "{:.2f}", 1, _mean("ab_psnr")),
    "ab_psnr_median": _Metric(
        "median ab-PSNR, dB", "{:.2f}", 1, lambda scores: np.median(scores["ab_psnr"], axis=-1)
    ),
    "psnr": _Metric("mean PSNR, dB", "{:.2f}", 1, _mean("psnr")),
    "ssim": _Metric("mean SSIM", "{:.4f}", 1, _mean("ssim")),
    "auc": _Metric("AuC", "{:.4f}", 1, _pooled("auc_sum", "n_pixels")),
    "auc_balanced": _Metric(
        "AuC, class-balanced", "{:.4f}", 1, _pooled("auc_balanced_sum", "auc_balanced_weight")
    ),
    "colorfulness": _Metric("mean colorfulness", "{:.1f}", 0, _mean("colorfulness")),
}


def _all_metrics(columns):
    """The metrics whose numbers are there, on one set of photos or on a stack of resamples."""
    found = {}
    for name, metric in _METRICS.items():
        try:
            found[name] = metric.of(columns)
        except KeyError:  # a table that ships holds only what is shown
            continue
    return found


def _columns(scores, method):
    """The photos of a method that are not near-gray, as a dict of float64 columns."""
    colored = scores[~scores["near_gray"].astype(bool)].select_dtypes("number")
    if colored.empty:
        raise ValueError(
            "`scores` must have a photo that is not near-gray. "
            f"Received: {len(scores)} photos of '{method}', all near-gray"
        )
    return {name: column.to_numpy(np.float64) for name, column in colored.items()}


def _resample(columns, n_bootstrap, seed):
    """Each metric on `n_bootstrap` draws of the photos with replacement: dict of arrays.

    Equal numbers of photos and equal seeds draw equal photos, which is what pairs two methods.
    """
    rng = np.random.default_rng(seed)
    n_photos = len(columns["n_pixels"])
    step = max(1, 2_000_000 // n_photos)  # bounds memory on sets of many thousand photos
    parts = []
    for start in range(0, n_bootstrap, step):
        rows = rng.integers(n_photos, size=(min(step, n_bootstrap - start), n_photos))
        drawn = {name: column[rows] for name, column in columns.items()}
        parts.append(_all_metrics(drawn))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interval(values):
    # Without interpolation, because inf - inf (a photo of infinite PSNR) is not a number.
    return np.quantile(values, [0.025, 0.975], method="inverted_cdf")


def _by_method(scores):
    """The rows of each method, the model's first; all must be of the same photos."""
    tables = dict(list(scores.groupby("method", sort=False)))
    if "model" not in tables:
        raise ValueError(f"`scores` must have the method 'model'. Received: {list(tables)}")
    model = tables.pop("model")
    for method, table in tables.items():
        of_truth = ["n_pixels", "mean_chroma"]
        if list(table["file"]) != list(model["file"]) or not np.allclose(
            table[of_truth], model[of_truth]
        ):
            raise ValueError(
                "Each method must be scored on the model's photos, in the same order. "
                f"Received: '{method}' of other photos"
            )
    return {"model": model, **tables}


# What `compare` says of a metric, beside a column per floor.
_COLUMNS = (
    *("value", "low", "high", "better_floor", "difference", "difference_low", "difference_high"),
    *("relative_difference", "verdict", "truth", "photos", "near_gray"),
)


def _judge(better, values, drawn):
    """A metric's value held against the better floor; `drawn` holds the resamples by method."""
    floor = max([name for name in values if name != "model"], key=lambda n: better * values[n])
    difference = values["model"] - values[floor]
    low, high = _interval(drawn["model"] - drawn[floor])
    verdict = "better than" if better * difference > 0 else "worse than"
    return {
        "better_floor": floor,
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "relative_difference": difference / values[floor],
        "verdict": verdict if low > 0 or high < 0 else "no clear difference from",
    }


def _compare_set(scores, n_bootstrap, seed):
    tables = _by_method(scores)
    columns = {method: _columns(table, method) for method, table in tables.items()}
    drawn = {method: _resample(table, n_bootstrap, seed) for method, table in columns.items()}
    n_photos = len(columns["model"]["n_pixels"])
    found = {method: _all_metrics(table) for method, table in columns.items()}
    for name in found["model"]:
        metric = _METRICS[name]
        values = {method: float(numbers[name]) for method, numbers in found.items()}
        low, high = _interval(drawn["model"][name])
        row = dict.fromkeys(_COLUMNS) | values
        row |= {"metric": name, "value": row.pop("model"), "low": low, "high": high}
        if len(values) > 1 and metric.better and not np.isnan(values["model"]):
            row |= _judge(metric.better, values, {m: draws[name] for m, draws in drawn.items()})
        row["truth"] = columns["model"].get(f"truth_{name}", np.array(np.nan)).mean()
        yield row | {"photos": n_photos, "near_gray": len(tables["model"]) - n_photos}


def compare(scores, by=(), n_bootstrap=2000, seed=1):
    """The metrics of a model on a set of photos, each beside its floors.

    Near-gray photos are left out and counted. `ab_rmse`, `auc` and `auc_balanced` are pooled over
    all pixels of all photos; the others are means over photos, but for `ab_psnr_median`.
    Intervals are 95 % percentile bootstraps over photos; for the difference from a floor, model
    and floor are drawn together. The better floor is chosen per set and metric. Colorfulness is
    not judged, since more of it is not better.

    Args:
        scores: pandas.DataFrame of `score`, or several below one another. The floors are all
            methods but "model"; without any, nothing is judged. Metrics whose numbers are missing
            are left out.
        by: list of columns of `scores` that tell sets and models apart. Defaults to none: all
            rows are one model's on one set.
        n_bootstrap: int. Resamples. Defaults to 2000.
        seed: int. Defaults to 1.

    Returns:
        pandas.DataFrame, a row per set, model and metric (the index: `by` and "metric"): `value`
        with `low` and `high`; a column per floor; `better_floor`, its name; `difference`, model
        minus better floor, with `difference_low` and `difference_high`; `relative_difference`, the
        difference over the better floor's value; `verdict`, "better than" or "worse than" where
        the difference's interval leaves zero out, else "no clear difference from"; `truth`, of the
        originals (colorfulness only); and the counts `photos` (used) and `near_gray` (left out).
    """
    by = list(by)
    rows = [
        dict(zip(by, key, strict=True)) | row
        for key, table in (scores.groupby(by, sort=False) if by else [((), scores)])
        for row in _compare_set(table, n_bootstrap, seed)
    ]
    return pd.DataFrame(rows).set_index([*by, "metric"])


def compare_trainings(scores, baseline, n_bootstrap=2000, seed=1):
    """How the results of several ways to train differ from those of one of them.

    Each way, an arm, was trained several times, with the same seeds, and every network was scored
    on the same photos. A metric is computed for each training, and averaged over the seeds. The
    intervals are 95 % percentile bootstraps that draw photos and seeds with replacement, the same
    ones for both arms (two-way: Owen 2007, "The pigeonhole bootstrap", arXiv 0712.1111). Of n seeds
    drawn with replacement, the means have (n - 1) / n of the variance that means of n new trainings
    would have; so a seed's distance from the mean is enlarged by the root of n / (n - 1). Two or
    three seeds still tell little of how much trainings vary: where that is all that varies, their
    intervals hold the truth in 61 and 81 % of cases. One tells nothing: then the interval draws
    photos alone.

    Args:
        scores: pandas.DataFrame, a row per `arm`, `seed` and `file` with the numbers of
            `score_photo` that the metrics need: metrics whose numbers are missing are left out.
            Near-gray photos are left out.
        baseline: str. The arm that the others are compared with.
        n_bootstrap: int. Resamples. Defaults to 2000.
        seed: int. Of the resamples. Defaults to 1.

    Returns:
        pandas.DataFrame, a row per arm and metric (the index): `value`, and of the others than the
        baseline `difference` (arm minus baseline) with `low` and `high`; the counts `seeds` and
        `photos`.

    Raises:
        ValueError: an unknown baseline, or trainings that were scored on different photos.
    """
    values, drawn, photo_lists, rows = {}, {}, set(), []
    for (arm, training), table in scores.groupby(["arm", "seed"], sort=False):
        table = table[~table["near_gray"].astype(bool)].sort_values("file", kind="stable")
        photo_lists.add(tuple(table["file"]))
        columns = _columns(table, arm)
        values.setdefault(arm, {})[training] = _all_metrics(columns)
        drawn.setdefault(arm, {})[training] = _resample(columns, n_bootstrap, seed)
    if baseline not in values:
        raise ValueError(f"baseline must be one of {list(values)}. Received: {baseline!r}")
    if len(photo_lists) != 1:
        raise ValueError("`scores` must hold the same photos for every arm and seed")
    for arm in values:
        shared = sorted(set(values[arm]) & set(values[baseline]))
        picks = np.random.default_rng(seed).integers(len(shared), size=(n_bootstrap, len(shared)))
        for name in values[arm][shared[0]] if shared else ():
            row = {"arm": arm, "metric": name}
            row["value"] = np.mean([values[arm][s][name] for s in shared])
            if arm != baseline:
                base = np.mean([values[baseline][s][name] for s in shared])
                each = np.stack([drawn[arm][s][name] - drawn[baseline][s][name] for s in shared], 1)
                middle, count = each.mean(axis=1), len(shared)
                away = np.take_along_axis(each, picks, axis=1).mean(axis=1) - middle
                low, high = _interval(middle + away * np.sqrt(count / max(count - 1, 1)))
                row |= {"difference": row["value"] - base, "low": low, "high": high}
            rows.append(row | {"seeds": len(shared), "photos": len(next(iter(photo_lists)))})
    return pd.DataFrame(rows).set_index(["arm", "metric"])


def report(comparison):
    """A comparison written out to be read.

    Args:
        comparison: pandas.DataFrame of `compare`, or some of its rows.

    Returns:
        pandas.DataFrame of str, a row per metric, set and model (the index): `model` with its
        95 % interval, a column per floor, `original` (of colorfulness), `model - better floor`
        with its interval, and `verdict`, which names that floor.
    """
    floors = [name for name in comparison if name not in _COLUMNS]
    order, rows = list(_METRICS), []
    table = comparison.reset_index()
    table = table.sort_values("metric", key=lambda names: names.map(order.index), kind="stable")
    for row in table.to_dict("records"):
        metric = _METRICS[row["metric"]]
        interval = f"{metric.form} [{metric.form}, {metric.form}]"
        signed = interval.replace("{:", "{:+")
        difference = (row["difference"], row["difference_low"], row["difference_high"])
        judged = pd.notna(row["verdict"])
        texts = {
            "model": interval.format(row["value"], row["low"], row["high"]),
            **{floor: metric.form.format(row[floor]) for floor in floors},
            "original": "" if pd.isna(row["truth"]) else metric.form.format(row["truth"]),
            "model - better floor": signed.format(*difference) if judged else "",
            "verdict": f"{row['verdict']} {row['better_floor']}" if judged else "",
        }
        rows.append(row | {"metric": metric.label} | texts)
    index = ["metric", *comparison.index.names[:-1]]
    return pd.DataFrame(rows)[[*index, *texts]].set_index(index)
