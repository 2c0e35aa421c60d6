"""Tables and figures of a study. Each title names the source of its data.

Figures are `matplotlib.figure.Figure`s in the house style, for `notebooks.figures.save_figure`.
"""

import textwrap

import numpy as np
import pandas as pd

from notebooks.figures import PAGE, STYLE
from study.analysis import LEVEL, ORIGINAL

BLUE, ORANGE, GREEN, PINK, GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999"
NAMED = 24  # photos in a figure that has room to name each


def table(frame, title, source, digits=3):
    """A table with its title and source above it, for a notebook.

    Args:
        frame: DataFrame. Numbers are rounded, missing ones left empty.
        digits: of numbers with a fraction; those under 0.001 named `p` or `p_holm` show as such.

    Returns:
        A pandas `Styler`.
    """
    formats = {name: _format(name, frame[name], digits) for name in frame}
    caption = "text-align: left; font-weight: bold; white-space: nowrap"
    styles = [{"selector": "caption", "props": caption}]
    titled = frame.style.set_caption(f"{title} ({source})").set_table_styles(styles)
    return titled.format(formats)


def _format(name, column, digits):
    """What to show of the values of a column."""
    if name in ("p", "p_holm"):
        return lambda p: "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
    if not pd.api.types.is_numeric_dtype(column):
        return str
    given = column.dropna()
    places = 0 if len(given) and (given == given.round()).all() else digits
    return lambda value: "" if pd.isna(value) else f"{value:.{places}f}"


def _figure(title, source, height, columns=1, rows=1, **options):
    """A figure and its axes (an array if several), with title and source over all of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAGE, height), layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    source = textwrap.fill(source, 66)
    lines = "\n" * (1 + source.count("\n"))
    heading = {"x": 0.01, "ha": "left", "fontsize": STYLE["font.size"]}
    figure.suptitle(f"{title}{lines}", **heading, fontweight="bold")
    # A second text in the room of the title's empty lines, for a lighter hand.
    figure.text(0.01, 1 - 0.34 / height, source, ha="left", va="top", color="#555")
    return figure, axes


def _styled(function):
    from functools import wraps

    @wraps(function)
    def styled(*arguments, **options):
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return function(*arguments, **options)

    return styled


def _color(method, order):
    return GREEN if method == ORIGINAL else (BLUE, ORANGE, PINK)[order.index(method) % 3]


def _dots(axes, x, y, low, high, color, label=None, **options):
    error = np.array([np.asarray(x) - low, high - np.asarray(x)])
    options = {"markersize": 5, "elinewidth": 1.3, "fmt": "o"} | options
    axes.errorbar(x, y, xerr=np.maximum(error, 0), color=color, label=label, **options)


def _name(axes, photos, places, thumbnails):
    """Names up to 24 photos on the y axis: by thumbnails, or by their scenes (color says which)."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    if len(photos) > NAMED:
        axes.set_yticks([])
        return
    axes.set_yticks(places, [""] * len(photos) if thumbnails else photos["scene"])
    for stimulus, place in zip(photos["stimulus"], places, strict=True) if thumbnails else ():
        picture = OffsetImage(thumbnails[stimulus], zoom=18 / len(thumbnails[stimulus]))
        axes.add_artist(
            AnnotationBbox(
                picture,
                (0, place),
                xycoords=axes.get_yaxis_transform(),
                xybox=(-8, 0),
                boxcoords="offset points",
                box_alignment=(1, 0.5),
                frameon=False,
                pad=0,
            )
        )


@_styled
def photos_figure(photos, source, title="How often single photos are called real", thumbnails=None):
    """Every photo's acceptance with its Wilson interval, the most often accepted on top.

    Args:
        photos: what `analysis.per_photo` or `analysis.with_intervals` returns. Up to 24 are named.
        thumbnails: dict {stimulus: uint8 array (H, W, 3)}, to show the photos instead of the names
            of their scenes.
    """
    order = sorted(set(photos["method"]) - {ORIGINAL})
    places = np.arange(len(photos))[::-1]
    named = len(photos) <= NAMED
    height = min(1.6 + (0.28 if named else 0.09) * len(photos), 8)
    figure, axes = _figure(title, source, height)
    for method in [*order, ORIGINAL]:
        rows = (photos["method"] == method).to_numpy()
        part = photos[rows]
        look = {} if named else {"markersize": 3, "elinewidth": 0.8}
        color = _color(method, order)
        _dots(axes, part["share"], places[rows], part["low"], part["high"], color, method, **look)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.7, len(photos) - 0.3), xlabel='share of answers "real"')
    _name(axes, photos, places, thumbnails)
    axes.axvline(0.5, color=GRAY, linewidth=1, zorder=0)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")
    return figure


@_styled
def acceptance_figure(acceptance, differences, source):
    """Above each method's acceptance, below its difference from the originals, with intervals.

    The thin gray interval beside each rate treats answers as independent.

    Args:
        acceptance, differences: what the functions of these names in `analysis` return.
    """
    order = list(differences.index)
    height = 3.2 + 0.6 * (len(acceptance) + len(differences))
    title = f"Acceptance, with {100 * LEVEL:.0f} % intervals over people and photos"
    ratios = (len(acceptance), len(differences))
    figure, (left, right) = _figure(title, source, height, rows=2, height_ratios=ratios)
    for place, (method, row) in enumerate(acceptance.iterrows()):
        color, y = _color(method, order), -place
        _dots(left, [row["share"]], [y], row["low"], row["high"], color, elinewidth=2.2)
        naive = (row["naive_low"], row["naive_high"])
        below = {"elinewidth": 1.2, "markersize": 3, "label": "" if place else "as if independent"}
        _dots(left, [row["share"]], [y - 0.28], *naive, GRAY, **below)
    left.set_yticks(-np.arange(len(acceptance)), acceptance.index)
    left.set(xlim=(0, 1), ylim=(-len(acceptance) + 0.4, 0.6), xlabel='share of answers "real"')
    left.legend(loc="best")
    for place, (method, row) in enumerate(differences.iterrows()):
        color = _color(method, order)
        bounds = row["low"], row["high"]
        _dots(right, [row["difference"]], [-place], *bounds, color, elinewidth=2.2)
    right.axvline(0, color="#555555", linewidth=1)
    right.set_yticks(-np.arange(len(order)), [f"{name} less originals" for name in order])
    right.set(ylim=(-len(order) + 0.4, 0.6), xlabel="difference of the shares")
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
    return figure


@_styled
def sensitivity_figure(sensitivity, source):
    """People's d' against their criterion, a panel for each method.

    Args:
        sensitivity: what `analysis.sensitivity` returns.
    """
    people = sensitivity[sensitivity["participant"] != "pooled"]
    order = sorted(set(people["method"]))
    title = "What people can tell, and which way they lean"
    figure, panels = _figure(title, source, 4.2, len(order), sharex=True, sharey=True)
    for axes, method in zip(np.atleast_1d(panels), order, strict=True):
        part, color = people[people["method"] == method], _color(method, order)
        axes.scatter(part["criterion"], part["d_prime"], s=22, color=color, alpha=0.6, linewidths=0)
        mean = part[["criterion", "d_prime"]].mean()
        axes.plot(*mean, marker="+", markersize=14, markeredgewidth=2, color="#222222")
        axes.axhline(0, color="#555555", linewidth=1)
        axes.axvline(0, color=GRAY, linewidth=1)
        axes.set_title(method, fontweight="normal")
        axes.set(xlabel='criterion c\n("fake"  ←   →  "real")')
    np.atleast_1d(panels)[0].set(ylabel="d'   (0 is guessing)")
    return figure


@_styled
def ranking_figure(ranking, source, thumbnails=None):
    """Each photo's raw and shrunk rate, and the interval of its rank.

    Args:
        ranking: what `analysis.rank_photos` returns, with a `share`.
        thumbnails: as in `photos_figure`.
    """
    many = len(ranking) > NAMED
    places = np.arange(len(ranking))[::-1]
    height = min(2.2 + (0.11 if many else 0.28) * len(ranking), 8)
    title = "Photos ranked, with shrinkage"
    figure, (left, right) = _figure(title, source, height, 2, sharey=True)
    look = {"markersize": 3 if many else 5, "elinewidth": 0.9 if many else 1.3}
    left.scatter(
        ranking["share"], places, s=18, facecolors="none", edgecolors=GRAY, label="share", zorder=3
    )
    bounds = ranking["shrunk_low"], ranking["shrunk_high"]
    _dots(left, ranking["shrunk"], places, *bounds, BLUE, "shrunk, 95 % interval", **look)
    bounds = ranking["rank_low"], ranking["rank_high"]
    _dots(right, ranking["rank"], places, *bounds, BLUE, **look)
    left.set(xlim=(-0.02, 1.02), xlabel='answers "real"')
    left.set(ylim=(-0.7, len(ranking) - 0.3))
    _name(left, ranking, places, thumbnails)
    right.set(xlabel="rank", xlim=(0.2, len(ranking) + 0.8))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
    return figure


@_styled
def coverage_figure(coverage, source):
    """How often 95 % intervals contain the truth, for each size of a study.

    Args:
        coverage: rows of `coverage.coverage`, of several designs.
    """
    keys = list(zip(coverage["people"], coverage["photos"], coverage["design"], strict=True))
    order = list(dict.fromkeys(keys))
    coverage = coverage.assign(place=[order.index(key) for key in keys])
    title = "How often a 95 % interval holds the truth"
    figure, axes = _figure(title, source, 6.2)
    looks = zip((GRAY, GREEN, ORANGE, BLUE, PINK), "vosDP", strict=True)
    for number, ((name, part), (color, marker)) in enumerate(
        zip(coverage.groupby("interval", sort=False), looks, strict=False)
    ):
        place = part["place"] + 0.1 * (number - 2)
        look = {"fmt": marker, "color": color, "markersize": 6, "elinewidth": 1.2, "label": name}
        axes.errorbar(place, part["coverage"], yerr=part["uncertainty"], **look)
    axes.axhspan(0.93, 0.97, color=GREEN, alpha=0.12, linewidth=0)
    axes.axhline(0.95, color=GREEN, linewidth=1)
    labels = [f"{people} × {photos}\n{design}" for people, photos, design in order]
    axes.set_xticks(range(len(order)), labels)
    axes.set(
        xlabel="people × photos, colored + originals\n(lists: each person sees half of both)",
        ylabel="share of the studies",
        ylim=(0, 1.05),
    )
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower left", ncols=2)
    return figure


@_styled
def power_figure(power, source):
    """Width of the difference's interval, and power, by people; a line per number of photos.

    Args:
        power: what `simulation.power` returns.
    """
    title = "What studies of so many people and photos would see"
    figure, (left, right) = _figure(title, source, 8.0, rows=2)
    lines = zip(power.groupby("photos"), (BLUE, ORANGE, GREEN, PINK, "#E69F00"), strict=False)
    for (photos, part), color in lines:
        look = {"color": color, "marker": "o", "markersize": 4, "label": f"{photos} photos"}
        left.plot(part["people"], part["difference_width"], **look)
        right.plot(part["people"], part["power"], **look)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(set(power["people"])), sorted(set(power["people"])))
        axes.minorticks_off()
        axes.set(xlabel="people")
    left.set(ylabel="width of the 95 % interval\nof the difference", ylim=(0, None))
    right.set(ylabel="share of studies\nthat see a difference", ylim=(0, 1.02))
    left.legend(loc="upper right", ncols=2)
    left.set(ylim=(0, 1.3 * power["difference_width"].max()))
    return figure
