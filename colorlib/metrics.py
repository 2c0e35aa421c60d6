"""How close an output comes to the original, per photo and over a set, beside its floors.

Images are uint8 RGB arrays (H, W, 3): what is judged is the 8-bit picture that a model delivers,
read back, not its float prediction. Lab is CIE Lab (D65, 2 degrees) by scikit-image, computed and
summed in float64. Wrong shapes or types raise a ValueError.

`score_photo` makes one row of numbers per photo, with sums where a metric is pooled over pixels;
`summarize` turns the rows of a set into metrics with intervals, and `compare_to_floors` sets them
against what the same photos score when they are given one constant color.
"""

import numpy as np
import pandas as pd
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity

from colorlib import lab, photos

NEAR_GRAY = 4.0  # mean chroma, in units of Lab
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


def colorfulness(rgb, signed=True):
    """Colorfulness M(3) of Hasler and Süsstrunk 2003; 0 for a gray image.

    With rg = R - G and yb = (R + G) / 2 - B, their population standard deviations s and means m
    over the pixels: sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2). They call 15 slightly,
    33 moderately, 45 averagely and 59 quite colorful.

    Args:
        rgb: uint8 array (H, W, 3).
        signed: bool. True is the published definition; False takes |rg| and |yb|, as the code of
            CT2, ColorFormer and DDColor does. The two are not comparable. Defaults to True.
    """
    _check_image("rgb", rgb)
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    if not signed:
        opponents = np.abs(opponents)
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


def error_histogram(ab, truth_ab, ab_frequency=None):
    """The ab errors of pixels, counted for `auc`; histograms of several photos may be summed.

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
        float64 array (152,): the weight of the pixels whose Euclidean error e has ceil(e) equal
        to the index, so 0 is exact and 1 is 0 < e <= 1; the last entry holds all above 150.
    """
    ab, truth_ab = np.asarray(ab, np.float64), np.asarray(truth_ab, np.float64)
    if ab.shape != truth_ab.shape or ab.shape[-1:] != (2,):
        raise ValueError(
            "`ab` and `truth_ab` must be of one shape (..., 2). "
            f"Received: ab.shape={ab.shape}, truth_ab.shape={truth_ab.shape}"
        )
    error = np.hypot(*np.moveaxis(ab - truth_ab, -1, 0))
    index = np.minimum(np.ceil(error), AUC_LIMIT + 1).astype(np.int64)
    weights = np.ones(index.shape)
    if ab_frequency is not None:
        weights = _bin_weights(ab_frequency)[lab.ab_bin(truth_ab)]
    return np.bincount(index.ravel(), weights=weights.ravel(), minlength=AUC_LIMIT + 2)


def _area(histogram):
    return float(np.trapezoid(np.cumsum(histogram)[: AUC_LIMIT + 1]) / AUC_LIMIT)


def auc(histogram):
    """Raw accuracy (Zhang et al. 2016, section 3.1): the area under the cumulative ab errors.

    The share of pixels whose error is at most t, for t = 0, 1, ... 150, integrated by the
    trapezoidal rule and divided by 150. A constant error d in (0, 150] gives
    (150.5 - ceil(d)) / 150.

    Args:
        histogram: array (152,) of `error_histogram`, or a sum of such.

    Returns:
        float in 0..1; 1 for exact colors.
    """
    histogram = np.asarray(histogram, np.float64)
    if histogram.shape != (AUC_LIMIT + 2,) or not histogram.any():
        raise ValueError(
            f"`histogram` must be an `error_histogram` ({AUC_LIMIT + 2},) of some pixels. "
            f"Received: shape={histogram.shape}, sum={histogram.sum()}"
        )
    return _area(histogram) / float(histogram.sum())


def score_photo(output, truth, ab_frequency=None):
    """All numbers of one photo: a row of a table that `summarize` reads, or of a CSV file.

    Args:
        output: uint8 array (H, W, 3). The colorized photo.
        truth: uint8 array (H, W, 3). The original.
        ab_frequency: array (23, 23) or None, as in `error_histogram`; without it the two numbers
            of the class-balanced accuracy are NaN.

    Returns:
        dict of numbers: the metrics above by their names; `mean_chroma`, `near_gray` and what
        starts with `truth_`, of the original; and for pooling over photos `n_pixels`, `ab_sse`
        (the squared ab errors summed over both channels and all pixels), `auc_sum` (the accuracy
        times `n_pixels`), `auc_balanced_weight` (the sum of the pixels' weights) and
        `auc_balanced_sum` (the class-balanced accuracy times that).
    """
    _check_pair(output, truth)
    ab, truth_ab = ab_of(output), ab_of(truth)
    n_pixels = truth.shape[0] * truth.shape[1]
    ab_sse = float(((ab - truth_ab) ** 2).sum())
    chroma = _chroma(truth_ab)
    balanced = np.full(AUC_LIMIT + 2, np.nan)
    if ab_frequency is not None:
        balanced = error_histogram(ab, truth_ab, ab_frequency)
    return {
        "n_pixels": n_pixels,
        "mean_chroma": chroma,
        "near_gray": chroma < NEAR_GRAY,
        "ab_sse": ab_sse,
        "ab_psnr": _decibels(ab_sse / (2 * n_pixels)),
        "psnr": psnr(output, truth),
        "ssim": ssim(output, truth),
        "colorfulness": colorfulness(output),
        "colorfulness_absolute": colorfulness(output, signed=False),
        "truth_colorfulness": colorfulness(truth),
        "truth_colorfulness_absolute": colorfulness(truth, signed=False),
        "auc_sum": _area(error_histogram(ab, truth_ab)),
        "auc_balanced_sum": _area(balanced),
        "auc_balanced_weight": float(balanced.sum()),
    }


def _mean(column):
    return lambda scores: scores[column].mean(axis=-1)


def _ratio(part, whole):
    return lambda scores: scores[part].sum(axis=-1) / scores[whole].sum(axis=-1)


# Each takes a dict of columns (..., photos), so that thousands of resamples are one call.
_METRICS = {
    "ab_psnr_mean": _mean("ab_psnr"),
    "ab_psnr_median": lambda scores: np.median(scores["ab_psnr"], axis=-1),
    "ab_rmse": lambda scores: np.sqrt(_ratio("ab_sse", "n_pixels")(scores) / 2),
    "psnr": _mean("psnr"),
    "ssim": _mean("ssim"),
    "auc": _ratio("auc_sum", "n_pixels"),
    "auc_balanced": _ratio("auc_balanced_sum", "auc_balanced_weight"),
    "colorfulness": _mean("colorfulness"),
    "truth_colorfulness": _mean("truth_colorfulness"),
    "colorfulness_ratio": _ratio("colorfulness", "truth_colorfulness"),
    "colorfulness_absolute": _mean("colorfulness_absolute"),
    "truth_colorfulness_absolute": _mean("truth_colorfulness_absolute"),
    "colorfulness_absolute_ratio": _ratio("colorfulness_absolute", "truth_colorfulness_absolute"),
}
# Compared with the floors. 1: more is better; -1: less is; 0: neither, shown but not judged.
_DIRECTIONS = {name: -1 if name == "ab_rmse" else 1 for name in list(_METRICS)[:7]}
_DIRECTIONS |= {"colorfulness": 0, "colorfulness_absolute": 0}


def _colored(scores):
    """The photos that are not near-gray, as a dict of float64 columns."""
    colored = scores[~scores["near_gray"].astype(bool)].select_dtypes("number")
    if colored.empty:
        raise ValueError(
            "`scores` must have a photo that is not near-gray. "
            f"Received: {len(scores)} photos, all near-gray"
        )
    return {name: column.to_numpy(np.float64) for name, column in colored.items()}


def _resample(scores, n_bootstrap, seed):
    """Each metric on `n_bootstrap` draws of the photos with replacement: dict of arrays.

    Equal numbers of photos and equal seeds draw equal photos, which is what pairs two tables.
    """
    rng = np.random.default_rng(seed)
    n_photos = len(scores["n_pixels"])
    step = max(1, 2_000_000 // n_photos)  # bounds memory on sets of many thousand photos
    parts = []
    for start in range(0, n_bootstrap, step):
        rows = rng.integers(n_photos, size=(min(step, n_bootstrap - start), n_photos))
        drawn = {name: column[rows] for name, column in scores.items()}
        parts.append([metric(drawn) for metric in _METRICS.values()])
    return dict(zip(_METRICS, np.concatenate(parts, axis=1), strict=True))


def _interval(values):
    # Without interpolation, because inf - inf (a photo of infinite PSNR) is not a number.
    return np.quantile(values, [0.025, 0.975], method="inverted_cdf")


def summarize(scores, n_bootstrap=2000, seed=1):
    """The metrics of a set of photos with 95 % percentile bootstrap intervals over photos.

    Near-gray photos are left out and counted. `ab_rmse`, `auc` and `auc_balanced` are pooled over
    all pixels of all photos, again in each resample; the ratios are those of the means of output
    and original; the others are means over photos, but for `ab_psnr_median`. `auc_balanced` is
    NaN where it was not computed.

    Args:
        scores: pandas.DataFrame with the rows of `score_photo`, one per photo.
        n_bootstrap: int. Resamples. Defaults to 2000.
        seed: int. Defaults to 1.

    Returns:
        pandas.DataFrame, one row per metric (the index): `value`, `low`, `high`, and the counts
        `photos` (used) and `near_gray` (left out), which `attrs` holds too.
    """
    columns = _colored(scores)
    resampled = _resample(columns, n_bootstrap, seed)
    rows = {
        name: [metric(columns), *_interval(resampled[name])] for name, metric in _METRICS.items()
    }
    n_photos = len(columns["n_pixels"])
    counts = {"photos": n_photos, "near_gray": len(scores) - n_photos}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
    table = table.assign(**counts).rename_axis("metric")
    table.attrs.update(counts)
    return table


def floor_outputs(truth, mean_ab):
    """What a colorizer must beat: the photo with one color everywhere, beside its own L.

    Args:
        truth: uint8 array (H, W, 3). sRGB.
        mean_ab: two numbers. The mean a and b over the training photos, in units of Lab.

    Returns:
        dict of uint8 arrays (H, W, 3): `gray`, without color, and `mean ab`.
    """
    _check_image("truth", truth)
    lightness = lab.lightness(truth)
    colors = {"gray": (0.0, 0.0), "mean ab": mean_ab}
    return {
        name: lab.recombine(lightness, np.full((*truth.shape[:2], 2), ab, np.float32))
        for name, ab in colors.items()
    }


def compare_to_floors(model_scores, floor_scores, n_bootstrap=2000, seed=1):
    """A model beside its floors, and its difference to the better floor of each metric.

    The better floor is chosen per metric on this set of photos. The interval is a 95 % percentile
    bootstrap over photos, paired: model and floor are drawn together. Colorfulness is shown but
    not judged, since more of it is not better.

    Args:
        model_scores: pandas.DataFrame with the rows of `score_photo`, one per photo.
        floor_scores: dict of such tables by floor, `{"gray": ..., "mean ab": ...}`, of the same
            photos in the same order.
        n_bootstrap: int. Resamples. Defaults to 2000.
        seed: int. Defaults to 1.

    Returns:
        pandas.DataFrame, one row per metric (the index): `model`; a column per floor;
        `better_floor`, its name; `difference`, model minus better floor, with `low` and `high`;
        `relative_difference`, the difference over the better floor's value. Below zero is good
        for `ab_rmse`, above zero for the others.
    """
    if not floor_scores or "model" in floor_scores:
        raise ValueError(
            "`floor_scores` must name at least one floor, none of them 'model'. "
            f"Received: {list(floor_scores)}"
        )
    of_truth = ["n_pixels", "mean_chroma"]
    for name, scores in floor_scores.items():
        if not (
            scores.index.equals(model_scores.index)
            and np.allclose(scores[of_truth], model_scores[of_truth])
        ):
            raise ValueError(
                "The floors must be of the model's photos, in the same order and with the same "
                f"index. Received: floor '{name}' of other photos"
            )
    columns = {name: _colored(t) for name, t in {"model": model_scores, **floor_scores}.items()}
    resampled = {name: _resample(scores, n_bootstrap, seed) for name, scores in columns.items()}
    rows = {}
    for metric, direction in _DIRECTIONS.items():
        values = {name: _METRICS[metric](scores) for name, scores in columns.items()}
        rows[metric] = {**values, "better_floor": None}
        if direction and not np.isnan(values["model"]):
            better = max(floor_scores, key=lambda name: direction * values[name])
            difference = values["model"] - values[better]
            low, high = _interval(resampled["model"][metric] - resampled[better][metric])
            rows[metric] |= {"better_floor": better, "difference": difference, "low": low}
            rows[metric] |= {"high": high, "relative_difference": difference / values[better]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


# How a metric is called and written where it is read.
_SHOWN = {
    "ab_rmse": ("pooled ab-RMSE", "{:.2f}"),
    "ab_psnr_mean": ("mean ab-PSNR, dB", "{:.2f}"),
    "ab_psnr_median": ("median ab-PSNR, dB", "{:.2f}"),
    "psnr": ("mean PSNR, dB", "{:.2f}"),
    "ssim": ("mean SSIM", "{:.4f}"),
    "auc": ("AuC", "{:.4f}"),
    "auc_balanced": ("AuC, class-balanced", "{:.4f}"),
    "colorfulness": ("mean colorfulness (signed)", "{:.1f}"),
    "colorfulness_absolute": ("mean colorfulness (absolute)", "{:.1f}"),
}


def report(tables, n_bootstrap=2000, seed=1):
    """The metrics of a set beside their floors, written out to be read.

    Args:
        tables: dict of pandas.DataFrame by method: `"model"` and the floors, with the rows of
            `score_photo` for the same photos in the same order.
        n_bootstrap, seed: as in `summarize`.

    Returns:
        pandas.DataFrame of str, one row per metric (the index): `model` with its 95 % interval, a
        column per floor, `original` (of colorfulness), and `model - better floor` with its
        interval.
    """
    values = summarize(tables["model"], n_bootstrap, seed)
    floors_ = {name: table for name, table in tables.items() if name != "model"}
    compared = compare_to_floors(tables["model"], floors_, n_bootstrap, seed)
    rows = {}
    for metric, (label, form) in _SHOWN.items():
        value, row = values.loc[metric], compared.loc[metric]
        truth = values["value"].get(f"truth_{metric}")
        interval = f"{form} [{form}, {form}]"
        signed = interval.replace("{:", "{:+")
        rows[label] = {
            "model": interval.format(value["value"], value["low"], value["high"]),
            **{name: form.format(row[name]) for name in floors_},
            "original": "" if truth is None else form.format(truth),
            "model - better floor": "",
        }
        if pd.notna(row["better_floor"]):
            difference = signed.format(row["difference"], row["low"], row["high"])
            rows[label]["model - better floor"] = difference
    return pd.DataFrame.from_dict(rows, orient="index")


def reports(models, n_bootstrap=2000, seed=1):
    """`report` of several models on one set of photos, metric by metric.

    Args:
        models: dict by model of dicts as for `report`.
        n_bootstrap, seed: as in `summarize`.

    Returns:
        pandas.DataFrame of str, a row for each metric and model (the index), columns as in
        `report`.
    """
    tables = {name: report(tables, n_bootstrap, seed) for name, tables in models.items()}
    rows = [(label, name) for label, _ in _SHOWN.values() for name in tables]
    return pd.concat(tables).swaplevel().loc[rows]


def gains(tables):
    """What a model gains over the better floor of each metric, in a few numbers for a card.

    Args:
        tables: as in `report`.

    Returns:
        dict of numbers: `ab_rmse` (pooled) and by how many percent it lies under the better floor,
        `ab_psnr` (mean, dB) and by how much it lies over the better floor, `auc` and the floors'
        best, `colorfulness` (signed) in percent of the originals'.
    """
    floors_ = {name: table for name, table in tables.items() if name != "model"}
    compared = compare_to_floors(tables["model"], floors_, n_bootstrap=1)
    rmse, psnr_, auc_ = (compared.loc[name] for name in ("ab_rmse", "ab_psnr_mean", "auc"))
    ratio = summarize(tables["model"], n_bootstrap=1).loc["colorfulness_ratio", "value"]
    return {
        "photos": int((~tables["model"]["near_gray"].astype(bool)).sum()),
        "ab_rmse": round(rmse["model"], 3),
        "percent_under_better_floor": round(-100 * rmse["relative_difference"], 2),
        "ab_psnr": round(psnr_["model"], 3),
        "db_over_better_floor": round(psnr_["difference"], 3),
        "auc": round(auc_["model"], 4),
        "auc_of_better_floor": round(auc_[auc_["better_floor"]], 4),
        "colorfulness_percent": round(100 * ratio, 1),
    }


def verdict(tables, metric="ab_rmse", n_bootstrap=2000, seed=1):
    """Whether a model beats the better floor on a set of photos, as a sentence.

    Args:
        tables: as in `report`.
        metric: str. One that `compare_to_floors` judges. Defaults to `"ab_rmse"`.
        n_bootstrap, seed: as in `summarize`.

    Returns:
        str. "Better" or "worse" only where the 95 % interval of the difference leaves zero out.
    """
    floors_ = {name: table for name, table in tables.items() if name != "model"}
    row = compare_to_floors(tables["model"], floors_, n_bootstrap, seed).loc[metric]
    label, form = _SHOWN[metric]
    signed = form.replace("{:", "{:+")
    gain = row["difference"] * _DIRECTIONS[metric]
    beyond = row["low"] > 0 or row["high"] < 0
    judgment = ("better than" if gain > 0 else "worse than") if beyond else "not told apart from"
    percent = f" ({100 * row['relative_difference']:+.1f} %)" if metric == "ab_rmse" else ""
    numbers = ", ".join(
        [
            f"{form.format(row['model'])} against {form.format(row[row['better_floor']])}",
            f"difference {signed.format(row['difference'])}{percent}",
            f"95 % interval {signed.format(row['low'])} to {signed.format(row['high'])}",
        ]
    )
    return f"{label}: {judgment} the better floor ({row['better_floor']}): {numbers}"


def score(colorizer, paths, *, vividness=None, floors=None, batch=16, progress=None):
    """Scores a colorizer, and the floors, on photos whose colors are known.

    Args:
        colorizer: Colorizer.
        paths: list of paths.
        vividness: as for `Colorizer.colorize`.
        floors: dict of DataFrames or None. Of an earlier call on these photos: its floors are
            returned again, without scoring them. Defaults to None.
        batch: int. Photos read at a time. Defaults to 16.
        progress: callable(done, total) or None.

    Returns:
        dict of DataFrames by method: `"model"`, `"gray"`, `"mean ab"`; each has a row per photo
        (`score_photo`) and its name in `file`.
    """
    colors = colorizer.card["colors"]
    frequency = np.array(colors["ab_counts"], "float64")
    rows = {"model": []} if floors else {"model": [], "gray": [], "mean ab": []}
    for start in range(0, len(paths), batch):
        chunk = paths[start : start + batch]
        truths = [photos.to_uint8(photos.read(path)) for path in chunk]
        for path, truth, output in zip(
            chunk, truths, colorizer.colorize_batch(truths, vividness), strict=True
        ):
            outputs = {"model": output}
            if not floors:
                outputs |= floor_outputs(truth, colors["mean_ab"])
            for method, rgb in outputs.items():
                row = score_photo(rgb, truth, frequency)
                rows[method].append({"file": getattr(path, "name", str(path)), **row})
        if progress:
            progress(min(start + batch, len(paths)), len(paths))
    return (floors or {}) | {method: pd.DataFrame(table) for method, table in rows.items()}
