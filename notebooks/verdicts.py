"""Where in a photo a network is wrong: errors by the color and by the size of what is colored.

`score_regions` sums errors and chroma over regions of single photos; `region_draws` pools them over
photos, with resamples. The notebook 05_verdicts and the script that computes the numbers of
the reference run (tests/benchmarks/regions.py) use both.
"""

from colorlib import lab, metrics, photos

import numpy as np
import pandas as pd
from skimage.segmentation import felzenszwalb

# Hue angles of CIE Lab, in degrees, where a group of colors begins, and what often has them.
HUES = {
    "red, pink": 340,
    "orange, brown: skin, wood, sand": 40,
    "yellow": 80,
    "green: plants": 105,
    "blue, cyan: sky, water": 165,
    "violet": 295,
}
# Shares of a photo's area where a group of sizes begins.
SIZES = {"under 1 %": 0.0, "1 to 10 %": 0.01, "over 10 %": 0.1}
CHROMAS = {"0 to 8": 0, "8 to 16": 8, "16 to 32": 16, "32 to 48": 32, "over 48": 48}
COLORED = 16  # chroma from which a pixel has a color that people name
SHORT_SIDE = 128  # px, of the photo whose regions are found


def area_of_regions(ab):
    """How large the region is that a pixel belongs to: a connected area of like color.

    Regions are those of Felzenszwalb and Huttenlocher 2004 ("Efficient graph-based image
    segmentation") on a and b alone: lightness, with its shadows and edges, has no part.

    Args:
        ab: float array (H, W, 2). The true a and b, in units of Lab.

    Returns:
        float array (H, W): the region's share of the photo, in 0..1.
    """
    labels = felzenszwalb(ab / 100, scale=100, sigma=0.5, min_size=20, channel_axis=-1)
    return (np.bincount(labels.ravel()) / labels.size)[labels]


def _group(values, starts):
    """The index of the group that each value belongs to; groups begin at rising `starts`."""
    return np.searchsorted(np.fromiter(starts.values(), float), values, side="right") - 1


def hue_group(ab):
    """The index in `HUES` of colors (..., 2)."""
    hue = np.degrees(np.arctan2(ab[..., 1], ab[..., 0]))
    first = next(iter(HUES.values()))
    return _group((hue - first) % 360, {name: (n - first) % 360 for name, n in HUES.items()})


def region_scores(outputs, truth):
    """Sums over the regions of one photo, from which `region_draws` pools.

    Args:
        outputs: dict of uint8 arrays (H, W, 3) by method. The photo as each method colors it.
        truth: uint8 array (H, W, 3). The original.

    Returns:
        pandas.DataFrame, a row per method and group of pixels. `by` is "chroma" (all pixels, by
        the true chroma) or "hue and size" (pixels with a chroma of `COLORED` or more, by their
        true hue and their region's size); `group` and `size` name the group; `n_pixels`,
        `ab_sse` (squared errors of a and b), `chroma` and `truth_chroma` (sums over pixels).
    """
    scale = SHORT_SIDE / min(truth.shape[:2])
    height, width = (max(1, round(scale * n)) for n in truth.shape[:2])
    true = metrics.ab_of(truth)
    small = np.stack(
        [photos.resize(true[..., i].astype("float32"), height, width) for i in (0, 1)], -1
    )
    rows, columns = (
        np.arange(n) * small_n // n
        for n, small_n in zip(truth.shape[:2], (height, width), strict=True)
    )
    size = _group(area_of_regions(small), SIZES)[np.ix_(rows, columns)]
    chroma = np.hypot(*np.moveaxis(true, -1, 0))
    colored = chroma >= COLORED
    pairs = hue_group(true) * len(SIZES) + size
    tables = []
    for method, output in outputs.items():
        ab = metrics.ab_of(output)
        columns = {
            "n_pixels": np.ones_like(chroma),
            "ab_sse": ((ab - true) ** 2).sum(axis=-1),
            "chroma": np.hypot(*np.moveaxis(ab, -1, 0)),
            "truth_chroma": chroma,
        }
        for by, groups, names, used in (
            ("chroma", _group(chroma, CHROMAS), [(name, "") for name in CHROMAS], chroma >= 0),
            ("hue and size", pairs, [(hue, size) for hue in HUES for size in SIZES], colored),
        ):
            sums = {
                name: np.bincount(groups[used], values[used], len(names))
                for name, values in columns.items()
            }
            table = pd.DataFrame(sums).assign(method=method, by=by)
            table[["group", "size"]] = names
            tables.append(table[table["n_pixels"] > 0])
    return pd.concat(tables, ignore_index=True)


def score_regions(colorizer, paths, vividness=None, batch=16):
    """`region_scores` of the photos as a network colors them, beside the floors.

    Args:
        colorizer: `colorlib.Colorizer`.
        paths: list of paths.
        vividness: as for `Colorizer.colorize`.
        batch: int. Photos read at a time. Defaults to 16.

    Returns:
        pandas.DataFrame: `region_scores` with the column `file`; near-gray photos are left out.
        The methods are "model", "gray" and "mean ab".
    """
    tables = []
    for path, truth, output in metrics.colored_photos(colorizer, paths, vividness, batch):
        if metrics.mean_chroma(truth) < lab.NEAR_GRAY:
            continue
        floors = metrics.floor_outputs(truth, colorizer.card["colors"]["mean_ab"])
        scores = region_scores({"model": output} | floors, truth)
        tables.append(scores.assign(file=path.name))
    return pd.concat(tables, ignore_index=True)


def region_draws(scores, by, n_bootstrap=2000, seed=1):
    """How wrong and how pale a network is in groups of pixels, on resamples of the photos.

    Args:
        scores: pandas.DataFrame of `score_regions`, of one network and any sets of photos.
        by: str. The column that makes the groups, "group" or "size".
        n_bootstrap: int. Resamples. Defaults to 2000.
        seed: int. Equal photos and seeds draw equal photos, which pairs two groups. Defaults to 1.

    Returns:
        dict by group of dicts of float arrays (1 + n_bootstrap,), all photos first: `share` (of
        the pixels), `rmse` of a and b, `floor` (its rmse, of the better one), `difference` (rmse
        over the floor's, minus 1) and `kept` (the output's chroma over the true one).
    """
    files = sorted(scores["file"].unique())
    drawn = np.random.default_rng(seed).integers(len(files), size=(n_bootstrap, len(files)))
    counts = np.stack([np.bincount(row, minlength=len(files)) for row in drawn])
    counts = np.concatenate([np.ones((1, len(files)), int), counts])
    columns = ["n_pixels", "ab_sse", "chroma", "truth_chroma"]
    per_photo = scores.groupby([by, "method", "file"])[columns].sum()
    sums = {
        key: {name: counts @ column.reindex(files, fill_value=0) for name, column in table.items()}
        for key, table in (
            (key, table.droplevel([by, "method"]))
            for key, table in per_photo.groupby([by, "method"])
        )
    }
    total = sum(of["n_pixels"] for (_, method), of in sums.items() if method == "model")
    draws = {}
    for group in scores[by].unique():
        of = {method: found for (key, method), found in sums.items() if key == group}
        with np.errstate(invalid="ignore"):  # A resample may hold no such pixel.
            rmse = {m: np.sqrt(found["ab_sse"] / found["n_pixels"] / 2) for m, found in of.items()}
            kept = of["model"]["chroma"] / of["model"]["truth_chroma"]
        floor = min(rmse.keys() - {"model"}, key=lambda method: rmse[method][0])
        draws[group] = {
            "share": of["model"]["n_pixels"] / total,
            "rmse": rmse["model"],
            "floor": rmse[floor],
            "difference": rmse["model"] / rmse[floor] - 1,
            "kept": kept,
        }
    return draws


def interval(draws):
    """(low, high): the 95 % percentile interval of resamples, without the first, all photos."""
    return np.nanquantile(draws[1:], [0.025, 0.975])


def regions_report(draws):
    """The draws of `region_draws`, written out to be read.

    Returns:
        pandas.DataFrame of str, a row per group.
    """
    rows = {}
    for group, found in draws.items():
        percent = {name: 100 * found[name] for name in ("difference", "kept")}
        texts = {
            name: f"{{:{sign}.0f}} [{{:{sign}.0f}}, {{:{sign}.0f}}]".format(
                percent[name][0], *interval(percent[name])
            )
            for name, sign in {"difference": "+", "kept": ""}.items()
        }
        rows[group] = {
            "of the pixels, %": f"{100 * found['share'][0]:.0f}",
            "ab-RMSE": f"{found['rmse'][0]:.1f}",
            "of the better floor": f"{found['floor'][0]:.1f}",
            "difference, %": texts["difference"],
            "chroma kept, %": texts["kept"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")
