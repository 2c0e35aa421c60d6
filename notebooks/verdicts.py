"""Where a network is wrong: by the color and the size of what is colored, and by what it shows.

`score_regions` sums errors and chroma over regions of single photos; `region_draws` pools them over
photos, with resamples. The notebook 05_verdicts and the script that computes the numbers of
the reference run (tests/benchmarks/regions.py) use both. The reports write out how trainings differ
(tests/benchmarks/ablation.py), what networks cost and reach in equal minutes (peers.py), and the
verdicts on the paper's claims.
"""

import json
from collections import Counter
from pathlib import Path

from colorlib import ColorlibError, lab, metrics, photos
from colorlib.embedding import shared_embedder

import numpy as np
import pandas as pd
from skimage.segmentation import felzenszwalb

# The scores that 05_verdicts reads, as scripts in tests/benchmarks/ write them.
SHIPPED = Path(__file__).parent / "data"
SCORES = ("ablation.parquet", "regions.parquet", "categories.csv", "peers")

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

# The classes of ImageNet in groups, each from its first class on; they have none for people, whose
# clothes and places are classes.
CLASSES = {
    "animals": 0,
    "things, clothes, buildings, vehicles": 398,
    "food": 924,
    "landscapes": 970,
    "sport, weddings, diving": 981,
    "plants and fungi": 984,
}


def find_scores(folder=None):
    """Where the scores are: those in a folder of one's own, and for the others those that ship.

    Args:
        folder: path or None.

    Returns:
        dict of Path by name, one for each of `SCORES`.

    Raises:
        ColorlibError: if the folder holds none of them.
    """
    found = {name: SHIPPED / name for name in SCORES}
    if folder is not None:
        own = {name: path for name in SCORES if (path := Path(folder, name)).exists()}
        if not own:
            raise ColorlibError(f"{folder}: holds none of {', '.join(SCORES)}; check SCORES")
        found |= own
    return found


def source_of(path):
    """What a table says of where scores of `find_scores` come from: str."""
    return "reference run" if Path(path).parent == SHIPPED else "your scores"


def sets_of(scores):
    """The names of the sets that were scored, the reference run's own first: list of str.

    Args:
        scores: pandas.DataFrame with a column `set`.
    """
    found = set(scores["set"])
    known = [name for name in ("imagenet475", "val", "sample", "kodak24") if name in found]
    return known + sorted(found - set(known))


def categories(logits):
    """What the packaged classifier takes photos for: a list of names in `CLASSES`.

    Args:
        logits: float array (N, 1000). Raw embeddings, of gray photos.
    """
    groups = _group(np.argmax(logits, axis=1), CLASSES)
    return [list(CLASSES)[index] for index in groups]


def _regions(ab):
    return felzenszwalb(ab / 100, scale=100, sigma=0.5, min_size=20, channel_axis=-1)


def area_of_regions(ab):
    """How large the region is that a pixel belongs to: a connected area of like color.

    Regions are those of Felzenszwalb and Huttenlocher 2004 ("Efficient graph-based image
    segmentation") on a and b alone: lightness, with its shadows and edges, has no part.

    Args:
        ab: float array (H, W, 2). The true a and b, in units of Lab.

    Returns:
        float array (H, W): the region's share of the photo, in 0..1.
    """
    labels = _regions(ab)
    return (np.bincount(labels.ravel()) / labels.size)[labels]


def _group(values, starts):
    """The index of the group that each value belongs to; groups begin at rising `starts`."""
    return np.searchsorted(np.fromiter(starts.values(), float), values, side="right") - 1


def hue_group(ab):
    """The index in `HUES` of colors (..., 2)."""
    hue = np.degrees(np.arctan2(ab[..., 1], ab[..., 0]))
    first = next(iter(HUES.values()))
    return _group((hue - first) % 360, {name: (n - first) % 360 for name, n in HUES.items()})


def resized_ab(ab, short_side):
    """a and b (H, W, 2) of a photo, resized to this short side, px: float32 array (h, w, 2)."""
    scale = short_side / min(ab.shape[:2])
    shape = [max(1, round(scale * n)) for n in ab.shape[:2]]
    planes = np.moveaxis(ab.astype("float32"), -1, 0)
    return np.stack([photos.resize(plane, *shape) for plane in planes], -1)


def _small_ab(rgb):
    """The a and b (h, w, 2) of a photo with a short side of `SHORT_SIDE` px."""
    return resized_ab(metrics.ab_of(rgb), SHORT_SIDE)


def regions_picture(rgb):
    """The regions of a photo (H, W, 3), each in its mean a and b: a uint8 array (h, w, 3)."""
    ab = _small_ab(rgb)
    labels = _regions(ab).ravel()
    sizes = np.bincount(labels)
    means = [np.bincount(labels, ab[..., i].ravel()) / sizes for i in (0, 1)]
    flat = np.stack(means, -1)[labels].reshape(ab.shape).astype("float32")
    return lab.recombine(np.full(ab.shape[:2], 60, "float32"), flat)


def region_scores(output, floors, truth):
    """Sums over the regions of one photo, from which `region_draws` pools.

    Args:
        output: uint8 array (H, W, 3). The photo as a network colors it.
        floors: dict of uint8 arrays (H, W, 3) by name, `metrics.floor_outputs`.
        truth: uint8 array (H, W, 3). The original.

    Returns:
        pandas.DataFrame, a row per group of pixels. `by` is "chroma" (all pixels, by the true
        chroma) or "hue and size" (pixels with a chroma of `COLORED` or more, by their true hue and
        their region's size); `group` and `size` name the group. `n_pixels`, `ab_sse` (squared
        errors of a and b), `chroma` and `truth_chroma` are sums over its pixels, and so is a
        column for each floor, of its squared errors.
    """
    true, small = metrics.ab_of(truth), _small_ab(truth)
    rows, columns = (
        np.arange(n) * small_n // n
        for n, small_n in zip(truth.shape[:2], small.shape[:2], strict=True)
    )
    size = _group(area_of_regions(small), SIZES)[np.ix_(rows, columns)]
    ab, chroma = metrics.ab_of(output), np.hypot(*np.moveaxis(true, -1, 0))
    values = {
        "n_pixels": np.ones_like(chroma),
        "ab_sse": ((ab - true) ** 2).sum(axis=-1),
        "chroma": np.hypot(*np.moveaxis(ab, -1, 0)),
        "truth_chroma": chroma,
    }
    values |= {
        name: ((metrics.ab_of(floor) - true) ** 2).sum(axis=-1) for name, floor in floors.items()
    }
    pairs = hue_group(true) * len(SIZES) + size
    tables = []
    for by, groups, names, used in (
        ("chroma", _group(chroma, CHROMAS), [(name, "") for name in CHROMAS], chroma >= 0),
        (
            "hue and size",
            pairs,
            [(hue, size) for hue in HUES for size in SIZES],
            chroma >= COLORED,
        ),
    ):
        table = pd.DataFrame(
            {
                name: np.bincount(groups[used], column[used], len(names))
                for name, column in values.items()
            }
        )
        table.insert(0, "by", by)
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
        pandas.DataFrame: `region_scores` with the columns `file` (its name; its path where another
        photo has that name) and `category` (`categories`); near-gray photos are left out.

    Raises:
        ColorlibError: all photos are near-gray.
    """
    tables, names = [], Counter(path.name for path in paths)
    for path, truth, output in metrics.colored_photos(colorizer, paths, vividness, batch):
        if metrics.mean_chroma(truth) < lab.NEAR_GRAY:
            continue
        floors = metrics.floor_outputs(truth, colorizer.card["colors"]["mean_ab"])
        (category,) = categories(shared_embedder()([lab.lightness(truth)]))
        scores = region_scores(output, floors, truth)
        file = path.name if names[path.name] == 1 else str(path)
        tables.append(scores.assign(file=file, category=category))
    if not tables:
        raise ColorlibError(f"all of {len(paths)} photos are near-gray; give color photos")
    return pd.concat(tables, ignore_index=True)


def region_draws(scores, by, n_bootstrap=2000, seed=1):
    """How wrong and how pale a network is in groups of pixels, on resamples of the photos.

    Args:
        scores: pandas.DataFrame of `score_regions`, of one network and any sets of photos.
        by: str. The column that makes the groups: "group", "size" or "category".
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
    floors = list(metrics.floor_colors((0, 0)))
    columns = ["n_pixels", "ab_sse", "chroma", "truth_chroma", *floors]
    per_photo = scores.groupby([by, "file"], observed=True)[columns].sum()
    sums = {
        group: {
            name: counts @ column.reindex(files, fill_value=0)
            for name, column in table.droplevel(by).astype("float64").items()
        }
        for group, table in per_photo.groupby(by, sort=False, observed=True)
    }
    total = sum(of["n_pixels"] for of in sums.values())
    order, draws = [*HUES, *SIZES, *CHROMAS, *CLASSES, *sums], {}
    for group in sorted(sums, key=order.index):
        of = sums[group]
        with np.errstate(invalid="ignore"):  # A resample may hold no such pixel.
            rmse = {n: np.sqrt(of[n] / of["n_pixels"] / 2) for n in ("ab_sse", *floors)}
            kept = of["chroma"] / of["truth_chroma"]
            floor = rmse[min(floors, key=lambda name: rmse[name][0])]
            draws[group] = {
                "share": of["n_pixels"] / total,
                "rmse": rmse["ab_sse"],
                "floor": floor,
                "difference": rmse["ab_sse"] / floor - 1,
                "kept": kept,
            }
    return draws


def interval(draws):
    """(low, high): the 95 % percentile interval of resamples, without the first, all photos."""
    return np.nanquantile(draws[1:], [0.025, 0.975])


def _text(value, low, high, digits, sign="+"):
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _text_of(draws, sign="+"):
    return _text(draws[0], *interval(draws), 0, sign)


def regions_report(draws):
    """The draws of `region_draws`, written out to be read.

    Returns:
        pandas.DataFrame of str, a row per group.
    """
    rows = {}
    for group, found in draws.items():
        rows[group] = {
            "of the pixels, %": f"{100 * found['share'][0]:.0f}",
            "ab-RMSE": f"{found['rmse'][0]:.1f}",
            "of the better floor": f"{found['floor'][0]:.1f}",
            "difference, %": _text_of(100 * found["difference"]),
            "chroma kept, %": _text_of(100 * found["kept"], ""),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


# The metrics that the comparisons of trainings show, with the digits of a difference.
DIFFERENCES = {
    "ab_rmse": ("pooled ab-RMSE", 2),
    "ab_psnr_mean": ("mean ab-PSNR, dB", 2),
    "auc": ("AuC", 4),
    "colorfulness": ("mean colorfulness", 1),
}


def compare_on_sets(scores, baseline, seed=1):
    """`metrics.compare_trainings` on each set: pandas.DataFrame, index "set", "arm" and "metric".

    Args:
        scores, baseline, seed: as for `metrics.compare_trainings`; `scores` with a column `set`.

    Raises:
        ColorlibError: there are no scores of the baseline.
    """
    if baseline not in set(scores["arm"]):
        raise ColorlibError(
            f"SCORES holds {', '.join(sorted(set(scores['arm'])))}, but not {baseline}, with which "
            "they are compared; train it, too"
        )
    tables = {
        name: metrics.compare_trainings(scores[scores["set"] == name], baseline, seed=seed)
        for name in sets_of(scores)
    }
    return pd.concat(tables, names=["set"])


def differences_report(compared, arms):
    """How arms differ from the baseline, written out: a row for each arm and set.

    Args:
        compared: pandas.DataFrame of `compare_on_sets`.
        arms: list of str. Those that are shown.

    Returns:
        pandas.DataFrame of str: "-0.12 [-0.20, -0.04]", arm minus baseline, for each metric.
    """
    rows = {}
    for arm in arms:
        for name, table in compared.xs(arm, level="arm").groupby("set", sort=False):
            found = table.droplevel("set")
            rows[arm, name] = {
                label: _text(*found.loc[metric, ["difference", "low", "high"]], digits)
                for metric, (label, digits) in DIFFERENCES.items()
            }
    index = pd.MultiIndex.from_tuples(rows, names=["arm", "set"]) if rows else None
    return pd.DataFrame(list(rows.values()), index)


# What a network costs, as tests/benchmarks/peers.py measures it: how it is shown, from what, in
# which unit.
COSTS = {
    "parameters, millions": ("{:.1f}", "parameters", 1e6),
    "of them trained": ("{:.1f}", "trained", 1e6),
    "multiply-adds at 224 px, billions": ("{:.2f}", "multiply_adds", 1e9),
    "s a photo of 256 px": ("{:.3f}", "seconds_batch_1", 1),
    "s in a batch of 16": ("{:.3f}", "seconds_batch_16", 1),
    "minutes": ("{:.1f}", "minutes", 1),
    "crops seen": ("{:,.0f}", "crops", 1),
    "learning rate": ("{:g}", "learning_rate", 1),
}
FLOORS = "floors"  # of the files of scores beside one another, the one that is no network's


def peer_scores(folder):
    """The scores of networks on equal terms, and of the floors: pandas.DataFrame.

    Args:
        folder: path. What tests/benchmarks/peers.py has written.
    """
    return pd.concat(
        [pd.read_parquet(path) for path in sorted(Path(folder).glob("*.parquet"))],
        ignore_index=True,
    )


def peer_costs(folder):
    """What the networks with scores cost: pandas.DataFrame, a row per network, the smallest first.

    Args:
        folder: path, as for `peer_scores`.
    """
    networks = {path.stem for path in Path(folder).glob("*.parquet")} - {FLOORS}
    costs = {name: json.loads(Path(folder, f"{name}.json").read_text()) for name in networks}
    table = pd.DataFrame.from_dict(costs, orient="index").rename_axis("network")
    return table.sort_values("parameters")


def costs_report(costs):
    """`peer_costs` written out to be read: pandas.DataFrame of str."""
    columns = {
        label: (costs[name] / unit).map(form.format) for label, (form, name, unit) in COSTS.items()
    }
    return pd.DataFrame(columns)


def peers_report(scores, seed=1):
    """How networks do on each set, floors among them, the smallest error first.

    Args:
        scores: pandas.DataFrame of `peer_scores`.
        seed: int. Of the resamples. Defaults to 1.

    Returns:
        pandas.DataFrame of str: "14.10 [13.62, 14.58]" for each of `DIFFERENCES`, a row per set and
        network; the last one of a set is of the originals.
    """
    compared = metrics.compare(scores.assign(method="model"), ["set", "network"], seed=seed)
    rows = {}
    for name, of_set in compared.groupby("set", sort=False):
        of_set = of_set.droplevel("set")
        for network in of_set["value"].xs("ab_rmse", level="metric").sort_values().index:
            found = of_set.loc[network]
            rows[name, network] = {
                label: _text(*found.loc[metric, ["value", "low", "high"]], digits, "")
                for metric, (label, digits) in DIFFERENCES.items()
            }
        label, digits = DIFFERENCES["colorfulness"]
        truth = found.loc["colorfulness", "truth"]
        rows[name, "the originals"] = {label: f"{truth:.{digits}f}"}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis(["set", "network"])


# What `lab.gray` is told of a film: nothing, for the gray that the networks are trained on, or the
# weights of red, green and blue light.
FILMS = {"panchromatic": (), "orthochromatic": ((0.0, 0.5, 0.5),)}


def film_scores(colorizer, truths):
    """`metrics.score_photo` of photos as two films would have recorded them, beside the floors.

    Args:
        colorizer: `colorlib.Colorizer`.
        truths: list of uint8 arrays (H, W, 3). The originals.

    Returns:
        pandas.DataFrame, a row per `film`, photo (`file`, its number) and `method`.
    """
    rows = []
    mean_ab = colorizer.card["colors"]["mean_ab"]
    floors = [
        {
            name: metrics.score_photo(rgb, truth)
            for name, rgb in metrics.floor_outputs(truth, mean_ab).items()
        }
        for truth in truths
    ]
    for film, emulsion in FILMS.items():
        outputs = colorizer.colorize_batch([lab.gray(rgb, *emulsion) for rgb in truths])
        for number, (output, truth) in enumerate(zip(outputs, truths, strict=True)):
            scores = {"model": metrics.score_photo(output, truth)} | floors[number]
            for method, numbers in scores.items():
                rows.append({"film": film, "method": method, "file": str(number), **numbers})
    return pd.DataFrame(rows)


SMALL, *_, LARGE = SIZES
NATURAL = ("orange, brown: skin, wood, sand", "green: plants", "blue, cyan: sky, water")


def _below(low, high, bound=0):
    """Whether an interval lies below a bound: True, False where above, None where on both sides."""
    return True if high < bound else False if low > bound else None


def _judge(parts):
    """The verdict on a claim from those on its parts: a list of True, False, None (undecided)."""
    if not parts:
        return "not tested here"
    if True in parts and False in parts:
        return "holds and fails in part"
    if True in parts:
        return "holds in part" if None in parts else "holds"
    if False in parts:
        return "fails in part" if None in parts else "does not hold"
    return "not shown"


def _count(parts):
    """How many of several parts hold, in words."""
    held, failed = parts.count(True), parts.count(False)
    return f"{held} of {len(parts)} hold" + (f", {failed} the contrary" if failed else "")


def _claim(claim, network, verdict, number, test, source):
    return {
        "claim": claim,
        "network": network,
        "verdict": verdict,
        "number": number,
        "holds if": test,
        "from": source,
    }


def _claim_on_sizes(name, table):
    same = table["same size back"]
    return _claim(
        "Photos of any size and aspect ratio are colored",
        name,
        _judge(list(same)),
        f"{same.sum()} of {len(same)} sizes and shapes; colors move by up to "
        f"{table['colors move by'].max():.1f}",
        "each comes back at its own size",
        "computed now",
    )


def _natural(regions, seed):
    """Of large natural areas: the judgments, and the numbers behind them."""
    large = regions[(regions["by"] == "hue and size") & (regions["size"] == LARGE)]
    draws = region_draws(large, "group", seed=seed)
    found = {hue: 100 * draws[hue]["difference"] for hue in NATURAL if hue in draws}
    number = "; ".join(f"{hue}: {_text_of(percent)} %" for hue, percent in found.items())
    return [_below(*interval(percent)) for percent in found.values()], number


def _small(regions, seed):
    """Of small objects, in the same way. They are held against large regions, for those lose much
    of their chroma as well: how much small ones keep says nothing of their size."""
    draws = region_draws(regions[regions["by"] == "hue and size"], "size", seed=seed)
    if not {SMALL, LARGE} <= set(draws):
        return [], ""
    small, large = (100 * draws[size]["kept"] for size in (SMALL, LARGE))
    number = f"kept {_text_of(small, '')} %; in large regions {large[0]:.0f} %, difference "
    number += f"{_text_of(small - large)} points"
    return [_below(*interval(small - large))], number


def _pale(regions, seed):
    """Of how pale colors are. Of all pixels: those that are colored in truth would look paler in
    any colors that err."""
    everywhere = regions[regions["by"] == "chroma"].assign(all="all")
    kept = 100 * region_draws(everywhere, "all", seed=seed)["all"]["kept"]
    return [_below(*interval(kept), 100)], f"kept {_text_of(kept, '')} %"


ON_REGIONS = {
    "Large natural areas (skin, grass, sky, sea) get good colors": (
        _natural,
        "in regions over 10 % of a photo, the error of each hue lies below the floor's",
    ),
    "Small objects stay gray": (
        _small,
        "small objects are grayer than large areas: regions under 1 % of a photo keep less of "
        "their chroma than regions over 10 %",
    ),
    "Colors are paler than the true ones": (
        _pale,
        "the chroma over all pixels is less than the true one",
    ),
}


def _claims_on_regions(name, regions, source, seed):
    """A verdict from each set by itself: all photos in one heap would hide where sets differ."""
    for claim, (look, test) in ON_REGIONS.items():
        parts = [
            part
            for _, of_set in regions.groupby("set", sort=False)
            for part in look(of_set, seed)[0]
        ]
        number = look(regions, seed)[1]
        number += f"; in each set by itself, {_count(parts)}" if parts else ""
        yield _claim(claim, name, _judge(parts), number, f"in each set, {test}", source)


# The arms that must all be worse: that a wrong embedding does harm is not yet a help of the own.
FUSION = {
    "The fusion helps": ["none"],
    "It helps because the embedding says what the photo shows": ["none", "shuffled", "constant"],
}


def _claim_on_fusion(claim, errors, source):
    numbers, parts = [], []
    for name, of_set in errors.groupby("set", sort=False):
        worse = [_below(-high, -low) for low, high in of_set[["low", "high"]].to_numpy()]
        parts.append(False if False in worse else None if None in worse else True)
        least = of_set.loc[of_set["low"].idxmin()]
        arm = f", {least['arm']}" * (len(of_set) > 1)
        numbers.append(f"{name}{arm}: {_text(*least[['difference', 'low', 'high']], 2)}")
    return _claim(
        claim,
        "paper",
        _judge(parts),
        "; ".join(numbers),
        f"on every set the pooled ab-RMSE without it ({', '.join(FUSION[claim])}) is larger than "
        "that of own" + "; the number is the arm's that shows it least" * (len(FUSION[claim]) > 1),
        source,
    )


def _claim_on_history(name, errors):
    numbers = [
        f"{film}: {100 * row['relative_difference']:+.0f} %, {row['verdict']} the floor"
        for (_, film), row in errors.iterrows()
    ]
    return _claim(
        "Historical photographs look plausible",
        name,
        "not tested here",
        "; ".join(numbers),
        f"people judge; the error of {errors['photos'].iloc[0]:.0f} photos, from the better floor",
        "computed now",
    )


def claims_report(compared, regions, sizes, films, sources, seed=1):
    """The paper's claims, how each was tested, and the verdicts.

    Args:
        compared: as for `differences_report`, of the ablation.
        regions: pandas.DataFrame of `score_regions`, with `preset` and `set`.
        sizes: pandas.DataFrame with `preset`, `same size back` (bool) and `colors move by`.
        films: pandas.DataFrame of `metrics.compare` over `film_scores` by preset and film.
        sources: two str. Where `compared` and `regions` come from, as `source_of` says.
        seed: int. Of the resamples. Defaults to 1.

    Returns:
        pandas.DataFrame of str, a row per claim and network: the verdict ("holds", "holds in part"
        or "fails in part" where the rest is open, "holds and fails in part", "does not hold" where
        the numbers say the contrary, "not shown" where they leave it open, or "not tested here"),
        the number, what decides, and whether the number was computed now.
    """
    rows, (source, source_of_regions) = [], sources
    for name, table in sizes.groupby("preset", sort=False):
        rows.append(_claim_on_sizes(name, table))
    for name, table in regions.groupby("preset", sort=False):
        rows += _claims_on_regions(name, table, source_of_regions, seed)
    errors = compared.xs("ab_rmse", level="metric").reset_index()
    for claim, arms in FUSION.items():
        if set(arms) <= set(errors["arm"]):
            rows.append(_claim_on_fusion(claim, errors[errors["arm"].isin(arms)], source))
    people = "About 46 % of the answers take the colors for real"
    rows.append(_claim(people, "all", "not tested here", "", "people answer: the study", ""))
    for name, table in films.xs("ab_rmse", level="metric").groupby("preset", sort=False):
        rows.append(_claim_on_history(name, table))
    order = list(dict.fromkeys(row["claim"] for row in rows))
    rows.sort(key=lambda row: order.index(row["claim"]))
    return pd.DataFrame(rows).set_index(["claim", "network"])
