"""One house style for figures, grids of photos, and figures that trace to the code that made them.

A figure is saved only by `save_figure`, which writes an entry beside it in `manifest.json`:
notebook, parameters, seed, and the hashes of everything that the picture depends on.
`check_manifest` says what no longer holds.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from colorlib import ASSETS, ColorlibError, __version__
from colorlib.presets import WEIGHTS, preset_folder, sha256

ROOT = ASSETS.resolve().parents[1]  # the clone
DPI = 150

# Colors: Okabe and Ito (2008), told apart by all common kinds of color vision; black is for text.
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.prop_cycle": (
        "cycler('color', ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'])"
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "figure.figsize": (7.0, 4.0),
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same letters on every machine
    "font.size": 10,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "image.cmap": "cividis",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": DPI,
    "text.color": "#222222",
    "xtick.color": "#777777",
    "xtick.labelcolor": "#333333",
    "ytick.color": "#777777",
    "ytick.labelcolor": "#333333",
}

PACKAGED = ("colorlib/assets/sample/", "colorlib/assets/historical/")
LISTED = 100  # up to so many photos are listed one by one in an entry

PAGE, WIDEST, NARROWEST = 9.0, 2.4, 1.4  # inches of all columns, and of one
TALLEST = 1.0  # a row is at most this many times as high as its columns are wide


def use_style() -> None:
    """Sets the house style (`STYLE`) for all figures that are made from now on."""
    import matplotlib

    matplotlib.rcParams.update(STYLE)


def photo_grid(
    rows: Sequence[Sequence],
    column_titles: Sequence[str],
    row_titles: Sequence[str] | None = None,
    captions: Sequence[Sequence[str | None]] | None = None,
    height: float | None = None,
):
    """Photos in rows and columns, each at its own aspect ratio, with nothing clipped.

    All columns have one width; a row is as high as its photos need, and a tall portrait is made
    narrower instead. Photos are drawn pixel by pixel at 150 dpi. Titles are plain text (no
    mathematics) and are wrapped to the room that they have.

    Args:
        rows: Rows of photos. A photo is whatever `colorlib.photos.as_rgb` takes: a path, a PIL
            image or an array; `None` leaves the place empty.
        column_titles: One title for each column.
        row_titles: One title for each row, at its left.
        captions: Texts under the photos, in the shape of `rows`; `None` for none.
        height: Inches of a 3:2 landscape photo. By default the columns share 9 inches and
            are 1.4 to 2.4 inches wide each.

    Returns:
        A `matplotlib.figure.Figure`, for `save_figure`.

    Raises:
        ValueError: If titles or captions do not have the shape of `rows`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = len(column_titles)
    row_titles = list(row_titles or [""] * len(rows))
    captions = [list(row) for row in captions] if captions else [[None] * columns for _ in rows]
    if not rows or not columns or any(len(row) != columns for row in rows):
        raise ValueError(
            f"rows must hold one photo for each of {columns} column titles. "
            f"Received: rows of {[len(row) for row in rows]}"
        )
    if len(row_titles) != len(rows) or [len(row) for row in captions] != [columns] * len(rows):
        raise ValueError(
            f"row_titles and captions must have the shape of rows ({len(rows)} x {columns}). "
            f"Received: {len(row_titles)} row titles, captions of {[len(r) for r in captions]}"
        )

    # Everything is laid out in whole pixels, so that no photo is resampled a second time.
    width = 1.5 * height if height else min(max(PAGE / columns, NARROWEST), WIDEST)
    width, margin, gap = _pixels(width), _pixels(0.12), _pixels(0.07)
    heads = [_Label(title, width, 10, "bold") for title in column_titles]
    sides = [_Label(title, _pixels(1.3), 9) for title in row_titles]
    notes = [[_Label(text or "", width, 8.5) for text in row] for row in captions]
    photos = [_fit(row, width) for row in rows]

    left = margin + max(side.width for side in sides)
    left += gap if left > margin else 0
    top = margin + max(head.height for head in heads) + gap
    total_width = left + columns * (width + gap) - gap + margin
    x_of = [left + column * (width + gap) for column in range(columns)]
    y_of, below = [], top
    talls = [
        max([side.height] + [photo.shape[0] for photo in row if photo is not None])
        for row, side in zip(photos, sides, strict=True)
    ]
    for tall, under in zip(talls, notes, strict=True):
        y_of.append(below)
        below += tall + max(note.height for note in under) + _pixels(0.1)
    total_height = below - _pixels(0.1) + margin

    with matplotlib.rc_context(STYLE):
        # The hair above whole pixels keeps rounding from losing the last one.
        size = ((total_width + 1e-3) / DPI, (total_height + 1e-3) / DPI)
        figure = Figure(figsize=size, dpi=DPI, layout="none")

        def write(label, x, y, **alignment):
            label.write(figure, x / total_width, 1 - y / total_height, **alignment)

        for x, head in zip(x_of, heads, strict=True):
            write(head, x + width / 2, top - gap, ha="center", va="bottom")
        for y, tall, row, side, under in zip(y_of, talls, photos, sides, notes, strict=True):
            write(side, left - gap, y + tall / 2, ha="right", va="center")
            for x, photo, note in zip(x_of, row, under, strict=True):
                high, wide = photo.shape[:2] if photo is not None else (tall, width)
                x_photo, y_photo = x + (width - wide) // 2, y + (tall - high) // 2
                bottom = y_photo + high
                write(note, x + width / 2, bottom + _pixels(0.03), ha="center", va="top")
                if photo is None:
                    continue
                axes = figure.add_axes(
                    (
                        x_photo / total_width,
                        1 - (y_photo + high) / total_height,
                        wide / total_width,
                        high / total_height,
                    )
                )
                axes.imshow(photo, aspect="auto")
                axes.set_axis_off()
    return figure


def film_gray(rgb, weights=(0.2126, 0.7152, 0.0722)):
    """The gray photo that a film with these sensitivities makes of a color photo.

    The weighted sum of the three channels in linear light, encoded as sRGB again (IEC 61966-2-1),
    so that white and grays stay what they are.

    Args:
        rgb: uint8 array (H, W, 3). sRGB.
        weights: three numbers, of red, green and blue; brought to a sum of 1. Defaults to the
            luminance of ITU-R BT.709: the gray of the same L, which is what a network sees.

    Returns:
        uint8 array (H, W).
    """
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    light = linear[rgb] @ (np.asarray(weights) / np.sum(weights))
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


class _Label:
    """A text that is wrapped to a width in pixels and knows the room that it takes."""

    def __init__(self, text, width, size, weight="normal"):
        from matplotlib.font_manager import FontProperties

        self.font = FontProperties(family=STYLE["font.family"], size=size, weight=weight)
        self.lines = self._wrap(str(text), 0.98 * width) if text else []
        self.width = round(max(map(self._measure, self.lines), default=0) * 1.02)
        self.height = round(len(self.lines) * 1.45 * size * DPI / 72)

    def _measure(self, text):
        from matplotlib.textpath import text_to_path

        points, _, _ = text_to_path.get_text_width_height_descent(text.rstrip(), self.font, False)
        return points * DPI / 72

    def _wrap(self, text, width):
        lines = []
        for paragraph in text.splitlines():
            lines.append("")
            # Words end at a space; file names also break after "_", "/" and a hyphen.
            for word in re.split(r"(?<=[\s_/])|(?<=\w-)", paragraph):
                pieces = [word] if self._measure(word) <= width else list(word)
                for piece in pieces:
                    if lines[-1] and self._measure(lines[-1] + piece) > width:
                        lines.append("")
                    lines[-1] += piece
        return [line.rstrip() for line in lines]

    def write(self, figure, x, y, **alignment):
        if self.lines:
            text = "\n".join(self.lines)
            figure.text(
                x, y, text, font=self.font, parse_math=False,
                multialignment=alignment["ha"], **alignment,
            )  # fmt: skip


def _pixels(inches: float) -> int:
    return round(inches * DPI)


def _fit(row, width) -> list:
    """The photos of one row as uint8 arrays, as large as a column and the row's height allow."""
    from PIL import Image

    from colorlib.photos import as_rgb, to_uint8

    photos = [None if cell is None else to_uint8(as_rgb(cell)) for cell in row]
    ratios = [photo.shape[0] / photo.shape[1] for photo in photos if photo is not None]
    tallest = min(max(ratios, default=2 / 3), TALLEST) * width

    def fit(photo):
        high, wide = photo.shape[:2]
        scale = min(width / wide, tallest / high)
        size = (max(round(wide * scale), 1), max(round(high * scale), 1))
        return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))

    return [None if photo is None else fit(photo) for photo in photos]


def layer_table(network, size: int = 224):
    """The layers of a network, in order, with what each gives for one photo.

    Args:
        network: A `keras.Model` of `colorlib.model`.
        size: Side of the photo in pixels, a multiple of 32 for `pyramid`. Defaults to 224, as in
            the paper's training.

    Returns:
        A `pandas.DataFrame`, a row for each layer: `layer` (its name), `operation`, `height`,
        `width` and `channels` of its output (height and width are 1 for a vector), `parameters`.
    """
    import keras
    import pandas

    outputs = {layer.name: layer.output for layer in network.layers}
    strides = {name: int(name.partition("stride_")[2] or 1) for name in network.input}
    photo = {
        name: keras.KerasTensor((1, *(n or size // strides[name] for n in tensor.shape[1:])))
        for name, tensor in network.input.items()
    }
    # Traced, not computed: every layer says what shape it gives.
    shapes = {name: one.shape for name, one in keras.Model(network.input, outputs)(photo).items()}
    rows = []
    for layer in network.layers:
        _, *grid, channels = shapes[layer.name]
        height, width = grid or (1, 1)
        rows.append((layer.name, _operation(layer), height, width, channels, layer.count_params()))
    columns = ["layer", "operation", "height", "width", "channels", "parameters"]
    return pandas.DataFrame(rows, columns=columns)


def _operation(layer) -> str:
    """What a layer does, in words."""
    kind = type(layer).__name__
    if kind == "Conv2D":
        stride = f", stride {layer.strides[0]}" if layer.strides[0] > 1 else ""
        size = "×".join(map(str, layer.kernel_size))
        return f"convolution {size}{stride}, {layer.activation.__name__}"
    words = {
        "InputLayer": "input",
        "PadToMultiple": "pad to a multiple of 8",
        "RepeatOverGrid": "repeat over the grid, stack",
        "UpSampling2D": "upsample ×2",
        "CropLike": "crop to the input's size",
        "Activation": "as float32",
        "Add": "add",
        "Concatenate": "stack",
        "GlobalAveragePooling2D": "mean over the photo",
    }
    return words.get(kind, kind)


def network_figure(network, size: int = 224, backbone: str = "backbone"):
    """Draws the network of the paper from its layers: encoder, fusion, decoder.

    Every bar is a feature map: as high as the map, as wide as it has channels.

    Args:
        network: The `keras.Model` of `colorlib.model.paper_network`.
        size: Side of the photo in pixels. Defaults to 224.
        backbone: Name of the classifier that makes the embedding.

    Returns:
        A `matplotlib.figure.Figure`, for `save_figure`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    table = layer_table(network, size).set_index("layer")
    length = table.channels["embedding"]
    table["part"] = table.index.str.split("_").str[0].str.replace("upsample", "decoder")
    parts = {
        "l": ("", "#555555"),
        "encoder": ("Encoder", "#0072B2"),
        "fusion": ("Fusion", "#D55E00"),
        "decoder": ("Decoder", "#009E73"),
    }
    table = table[table.part.isin(parts)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 4.3), layout="none")
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.set_axis_off()
        high, gap, x, middle, spans, before = 2.3, 0.25, 0.0, 0.0, {}, None
        text = {"ha": "center", "fontsize": 8.5}
        for name, row in table.iterrows():
            tall, wide = high * row.height / size, max(row.channels * 0.0007, 0.03)
            color = parts[row.part][1]
            box = {"linewidth": 0.8, "edgecolor": color}
            axes.add_patch(
                matplotlib.patches.Rectangle((x, -tall / 2), wide, tall, fc=color + "55", **box)
            )
            if name == "fusion_repeat":
                wide_vector = wide * length / row.channels
                middle = x + wide - wide_vector / 2
                corner = (x + wide - wide_vector, -tall / 2)
                axes.add_patch(
                    matplotlib.patches.Rectangle(corner, wide_vector, tall, fc="#CC79A7", **box)
                )
            axes.text(x + wide / 2, tall / 2 + 0.06, f"{row.channels}", va="bottom", **text)
            if row.height != before:
                label = f"{row.height}²"
                axes.text(x + wide / 2, -tall / 2 - 0.06, label, va="top", color="#777777", **text)
            if before:
                axes.annotate(
                    "", (x, 0), (x - gap, 0), arrowprops={"arrowstyle": "->", "color": "#777777"}
                )
            before = row.height
            start, _, count = spans.get(row.part, (x, x, 0))
            spans[row.part] = (start, x + wide, count + row.parameters)
            x += wide + gap

        for part, (start, end, count) in spans.items():
            title, color = parts[part]
            if title:
                axes.plot([start, end], [1.55, 1.55], color=color, linewidth=3)
                label = f"{title}\n{count:,}"
                axes.text((start + end) / 2, 1.62, label, va="bottom", ha="center", color=color)
        axes.annotate(
            "", (middle, -0.2), (middle, -0.85), arrowprops={"arrowstyle": "->", "color": "#CC79A7"}
        )
        vector = f"embedding of the whole photo: {length} numbers,\nthe same at every place"
        axes.text(middle, -0.9, vector, va="top", **text)
        axes.text(middle, -1.35, f"{backbone}, frozen", va="top", color="#777777", **text)
        axes.text(0, -high / 2 - 0.3, "L", va="top", ha="center", fontweight="bold")
        axes.text(x - gap, -high / 2 - 0.3, "ab", va="top", ha="center", fontweight="bold")
        axes.set(xlim=(-0.2, x - gap + 0.2), ylim=(-1.75, 2.2))
    return figure


def color_figure(ab, photo_chroma):
    """The colors of many pixels: where they lie in the ab plane, and how far from gray.

    Args:
        ab: Array (N, 2), a and b in units of Lab.
        photo_chroma: The mean chroma of each photo.

    Returns:
        A `matplotlib.figure.Figure`, for `save_figure`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from colorlib.metrics import NEAR_GRAY

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.9), layout="constrained")
        plane, histogram = figure.subplots(1, 2, width_ratios=(1, 1.15))
        *_, image = plane.hist2d(
            *ab.T, bins=np.arange(-100, 101, 2), norm=matplotlib.colors.LogNorm()
        )
        figure.colorbar(image, ax=plane, label="pixels")
        plane.plot(*ab.mean(axis=0), "o", color="#D55E00", markeredgecolor="white", label="mean")
        plane.legend(loc="upper left")
        plane.set(title="ab of the pixels", xlabel="a (green to red)", ylabel="b (blue to yellow)")
        plane.set(aspect="equal", xlim=(-100, 100), ylim=(-100, 100))

        chroma = np.hypot(*ab.T)
        shares = np.full(len(chroma), 100 / len(chroma))
        bins = np.arange(0, max(chroma.max(), *photo_chroma) + 2, 2)
        histogram.hist(chroma, bins, weights=shares, color="#56B4E9")
        histogram.axvline(np.median(chroma), label=f"median of the pixels, {np.median(chroma):.0f}")
        histogram.axvline(
            NEAR_GRAY, color="#777777", linestyle="--", label="photos below: near-gray"
        )
        rug = np.zeros(len(photo_chroma))
        histogram.plot(
            photo_chroma, rug, "|", color="#D55E00", markersize=12, label="a photo's mean"
        )
        histogram.legend()
        histogram.set(title="Chroma", xlabel="distance from gray", ylabel="% of the pixels")
    return figure


def distribution_figure(photo, place, probability, truth, answers):
    """The distribution over colors that a network gives one place of a photo.

    Left the place; in the middle the bins of the ab plane, each in its color at the place's L, its
    area its probability, with the true color and the path of the answers; right all of these as
    patches.

    Args:
        photo: uint8 array (H, W, 3).
        place: row and column, px.
        probability: array (Q,), of the colors `colorlib.model.ab_bins()`.
        truth: a and b of the place in the original.
        answers: a and b by name, in the order of the path.

    Returns:
        A `matplotlib.figure.Figure`, for `save_figure`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from colorlib import lab
    from colorlib.model import ab_bins

    row, column = place
    lightness = lab.lightness(photo)[row, column]

    def shown(ab):
        ab = np.asarray(ab, "float32").reshape(1, -1, 2)
        return lab.recombine(np.full(ab.shape[:2], lightness, "float32"), ab)[0] / 255

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.9), layout="constrained")
        left, plane, right = figure.subplots(1, 3, width_ratios=(1.1, 1.25, 0.75))
        left.imshow(film_gray(photo), cmap="gray", vmin=0, vmax=255)
        ring = {"markersize": 16, "fillstyle": "none", "color": "#D55E00", "markeredgewidth": 2.5}
        left.plot(column, row, "o", **ring)
        left.set(title="The place")
        left.set_axis_off()

        bins, edge = ab_bins(), {"edgecolors": "#777777", "linewidths": 0.4}
        area = 900 * probability / max(probability.max(), 0.1)
        plane.scatter(*bins.T, s=area, c=shown(bins), **edge)
        path = np.array(list(answers.values()))
        plane.plot(*path.T, ".-", color="#222222", markersize=5, linewidth=1.2)
        plane.plot(*path[0], "s", color="#222222", markersize=6, label=next(iter(answers)))
        plane.plot(
            *truth, "*", color="#D55E00", markeredgecolor="white", markersize=15, label="true"
        )
        plane.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        likely = np.concatenate([bins[probability > 0.002], path, [truth]])
        middle = (likely.min(0) + likely.max(0)) / 2
        reach = np.ptp(likely, axis=0).max() / 2 + 12
        plane.set(xlim=(middle[0] - reach, middle[0] + reach), aspect="equal")
        plane.set(ylim=(middle[1] - reach, middle[1] + reach))
        plane.set(title="Its distribution", xlabel="a", ylabel="b")

        patches = {**answers, "true": truth}
        right.imshow(shown(list(patches.values()))[:, None], aspect="auto")
        right.set(title="Its color", xticks=[])
        right.set_yticks(range(len(patches)), patches)
        right.hlines(np.arange(1, len(patches)) - 0.5, -0.5, 0.5, color="white", linewidth=3)
        right.grid(False)
        right.tick_params(length=0)
    return figure


def history_figure(*cards):
    """The errors of training runs over their steps, with their floors; a panel for each run.

    Drawn is the error that runs of all networks and the floors have in common, the mean squared
    error of the expected ab / 127: on the held-out crops, and on the training crops where it is
    what the run minimizes.

    Args:
        *cards: The cards of runs, of which `name`, `history` and `floors` are used.

    Returns:
        A `matplotlib.figure.Figure`, for `save_figure`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5 if len(cards) == 1 else 9.0, 3.8), layout="constrained")
        panels = figure.subplots(1, len(cards), sharey=True, squeeze=False)[0]
        shown, top = [], 0.0
        for axes, card in zip(panels, cards, strict=True):
            history, floors = card["history"], card["floors"]
            steps, loss, held_out_loss = (
                [row[name] for row in history] for name in ("step", "loss", "val_loss")
            )
            # Older cards have no val_mse: their loss is the error.
            held_out = [row.get("val_mse", row["val_loss"]) for row in history]
            training = loss if np.allclose(held_out, held_out_loss, rtol=0.02) else []
            if training:
                axes.plot(steps, training, "o-", markersize=4, label="training crops")
            axes.plot(steps, held_out, "o-", color="#D55E00", markersize=4, label="held-out crops")
            best = int(np.argmin(held_out_loss))
            ring = {"markersize": 11, "fillstyle": "none", "color": "#222222", "linestyle": "none"}
            axes.plot(steps[best], held_out[best], "o", label="kept", **ring)
            for (name, value), style in zip(floors.items(), (":", "--"), strict=False):
                line = {"color": "#777777", "linestyle": style, "linewidth": 1.4}
                axes.axhline(value, label=f"floor: {name}", **line)
            axes.set(xlabel="step", title=card["name"] if len(cards) > 1 else "")
            # Framed, as a floor may run behind it.
            frame = {"frameon": True, "framealpha": 1.0, "edgecolor": "none"}
            axes.legend(ncols=2 if len(cards) == 1 else 1, **frame)
            shown += [*training, *held_out, *floors.values()]
            top = max(top, min(held_out), *floors.values())
        # The first steps, from random weights, would squeeze all that follows into a line.
        panels[0].set(ylim=(0.75 * min(shown), 1.04 * min(max(shown), 2 * top)))
        panels[0].set(ylabel="MSE of ab / 127")
    return figure


def save_figure(fig, name: str, *, data=(), preset=None, seed=None, alt: str = "") -> None:
    """Saves a figure as PNG with an entry in the manifest, and shows it in a notebook.

    The file goes to `figures/<name>.png` in the output folder of the run (`outputs/interactive`
    when the notebook is run by hand). Shown pictures carry `alt`, which exported pages keep. The
    same figure gives the same bytes.

    Args:
        fig: A `matplotlib.figure.Figure`.
        name: Letters, digits, `_` and `-`. One name belongs to one notebook.
        data: The photos that the figure depends on: paths, folders of photos, or one of either.
        preset: Name of the preset that it depends on, or several names, or run folders.
        seed: Its seed; by default the notebook's parameter `SEED`, if it has one.
        alt: What the picture shows, in a sentence.

    Raises:
        ValueError: If `name` has other characters.
        ColorlibError: If another notebook of the run has saved a figure with this name, or
            a photo or the weights can't be found.
    """
    import matplotlib

    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name must be letters, digits, _ and - only. Received: name={name!r}")
    output, notebook, parameters = _context()
    folder = output / "figures"
    entries = read_manifest(folder)
    source = relative(notebook) if notebook else None
    owner = entries.get(name, {}).get("notebook")
    if owner and owner != source and (ROOT / owner).is_file():
        raise ColorlibError(f"{name}: {owner} saves a figure of this name too; rename one of them")

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    png = buffer.getvalue()
    entry = {
        "file": f"{name}.png",
        "sha256": hashlib.sha256(png).hexdigest(),
        "size": [int.from_bytes(png[16:20]), int.from_bytes(png[20:24])],  # as in PNG's header
        "alt": alt,
        "notebook": source,
        "notebook_sha256": notebook_source_hash(notebook) if notebook else None,
        "parameters": parameters,
        "seed": (parameters or {}).get("SEED") if seed is None else seed,
        "data": _data_entry(data),
        "weights": _weights_entry(preset),
        "versions": {"colorlib": __version__, "matplotlib": matplotlib.__version__}
        | {"numpy": np.__version__}
        | ({"keras": sys.modules["keras"].__version__} if "keras" in sys.modules else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / entry["file"], png)
    _write_manifest(folder, entries | {name: entry})
    _show(fig, png, alt)


def notebook_source_hash(path) -> str:
    """SHA-256 of a notebook's cells (type and source), whatever its outputs and metadata."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    sources = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def read_manifest(folder) -> dict:
    """The entries of a folder's `manifest.json` by figure name; none where there is no manifest.

    Raises:
        ColorlibError: If the manifest can't be read.
    """
    path = Path(folder) / "manifest.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ColorlibError(f"{path}: not a manifest ({error}); delete it and run again") from None


def check_manifest(folder, root=ROOT) -> list[str]:
    """What is wrong between a folder of figures, its manifest, and what the figures came from.

    Args:
        folder: A folder that `save_figure` or `publish` has filled.
        root: The clone that notebooks and packaged photos are looked up in.

    Returns:
        One line for each problem: a file without entry, an entry without file, or a hash of
        file, notebook source, packaged photo or weights that no longer holds. Empty if all is
        well.
    """
    folder = Path(folder)
    try:
        entries = read_manifest(folder)
    except ColorlibError as error:
        return [str(error)]
    problems = [line for name in sorted(entries) for line in _problems(folder, entries[name], root)]
    known = {entry.get("file") for entry in entries.values()} | {"manifest.json"}
    for path in sorted(folder.glob("*")):
        if path.name not in known and path.suffix != ".md" and not path.name.startswith("."):
            problems.append(f"{path.name}: has no entry in manifest.json; save it by save_figure")
    return problems


def _problems(folder, entry, root):
    """The problems of one figure, a line for each."""
    name = entry.get("file", "?")
    if not (folder / name).is_file():
        yield f"{name}: has an entry in manifest.json but is not there; run its notebook again"
    elif _hash(folder / name) != entry.get("sha256"):
        yield f"{name}: is not the file that was saved; run its notebook again"
    if not entry.get("notebook"):
        yield f"{name}: was saved outside a notebook; save it from one"
    elif not (root / entry["notebook"]).is_file():
        yield f"{name}: its notebook {entry['notebook']} is gone; remove the figure"
    elif notebook_source_hash(root / entry["notebook"]) != entry.get("notebook_sha256"):
        yield f"{name}: its notebook {entry['notebook']} has changed; run it again"
    for photo, digest in entry.get("data", {}).get("files", {}).items():
        if not photo.startswith(PACKAGED):
            continue  # somebody's own photo, which need not be here
        if not (root / photo).is_file():
            yield f"{name}: its photo {photo} is gone; run its notebook again"
        elif _hash(root / photo) != digest:
            yield f"{name}: its photo {photo} has changed; run its notebook again"
    for preset, digest in entry.get("weights", {}).items():
        try:
            holds = _weights_entry(preset) == {preset: digest}
        except ColorlibError:
            yield f"{name}: its preset {preset} is not packaged; run its notebook with one that is"
        else:
            if not holds:
                yield f"{name}: the weights of {preset} have changed; run its notebook again"


def publish(source, target, names: Sequence[str]) -> None:
    """Copies figures and their entries, so that `target` holds just these.

    Args:
        source: The `figures` folder of a run.
        target: The folder to fill. Figures that its manifest names and `names` does not are
            removed.
        names: Names of figures.

    Raises:
        ColorlibError: If a figure is missing, shows photos that are not packaged, or no longer
            matches what it came from. Nothing is copied then.
    """
    source, target = Path(source), Path(target)
    entries = read_manifest(source)
    for name in names:
        if name not in entries:
            raise ColorlibError(f"{name}: no such figure in {source}; run the notebooks first")
        data = entries[name]["data"]
        foreign = [photo for photo in data.get("files", {}) if not photo.startswith(PACKAGED)]
        if foreign or "files" not in data:
            shown = foreign[0] if foreign else f"{data['count']} photos"
            raise ColorlibError(
                f"{name}: shows {shown}, not packaged; run its notebook on the packaged photos"
            )
        for problem in _problems(source, entries[name], ROOT):
            raise ColorlibError(problem)
    target.mkdir(parents=True, exist_ok=True)
    for name, entry in read_manifest(target).items():
        if name not in names:
            (target / entry["file"]).unlink(missing_ok=True)
    for name in names:
        shutil.copyfile(source / entries[name]["file"], target / entries[name]["file"])
    _write_manifest(target, {name: entries[name] for name in names})


def remove_figures(folder, notebook) -> None:
    """Removes the figures that a notebook has saved in `folder`, with their entries."""
    entries = read_manifest(folder)
    stale = [name for name in entries if entries[name].get("notebook") == relative(notebook)]
    for name in stale:
        (Path(folder) / entries.pop(name)["file"]).unlink(missing_ok=True)
    if stale:
        _write_manifest(folder, entries)


def output_folder() -> Path:
    """The folder of this run (made if new): `outputs/<profile>`, by hand `outputs/interactive`."""
    folder = _context()[0]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _context():
    """Output folder, notebook (or None) and effective parameters (or None) of this run."""
    if "COLORLIB_OUTPUT" in os.environ:
        parameters = json.loads(os.environ.get("COLORLIB_PARAMETERS", "{}"))
        notebook = os.environ.get("COLORLIB_NOTEBOOK")
        return Path(os.environ["COLORLIB_OUTPUT"]), notebook, parameters
    session = os.environ.get("JPY_SESSION_NAME", "")
    notebook = session if session.endswith(".ipynb") and Path(session).is_file() else None
    base = ROOT if (ROOT / "notebooks").is_dir() else Path.cwd()
    return base / "outputs" / "interactive", notebook, None


def relative(path) -> str:
    """A path below the clone's root, or just the name: no manifest tells of somebody's folders."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _data_entry(data) -> dict:
    from colorlib.photos import find

    paths = []
    for item in [data] if isinstance(data, str | Path) else data:
        paths += find(item) if Path(item).is_dir() else [Path(item)]
    digests = {path: _hash(path) for path in dict.fromkeys(path.resolve() for path in paths)}
    files = {relative(path): digest for path, digest in digests.items()}
    if len(files) == len(digests) <= LISTED:
        return {"files": files}
    lines = "\n".join(sorted(digests.values()))
    return {"count": len(digests), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def _weights_entry(preset) -> dict:
    if not preset:
        return {}
    presets = [preset] if isinstance(preset, str | Path) else preset
    folders = [Path(preset_folder(one)) for one in presets]
    return {folder.name: _hash(folder / WEIGHTS) for folder in folders}


def _show(fig, png, alt) -> None:
    """Shows the saved picture in a notebook, once, with its alternative text."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.display import Image, display

    if getattr(get_ipython(), "kernel", None) is None:
        return
    # 96 CSS pixels are an inch: the page shows the figure at its size, sharp on fine screens too.
    data, kind = _for_page(png)
    display(Image(data, format=kind, alt=alt, width=round(fig.get_figwidth() * 96)))
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)


def _for_page(png):
    """The picture as a page shows it: JPEG where that is far smaller, which is where photos are."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "jpeg", quality=92, subsampling=0)
    jpeg = buffer.getvalue()
    return (jpeg, "jpeg") if len(jpeg) < len(png) / 2 else (png, "png")


def _hash(path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ColorlibError(f"{path}: can't be read ({error.strerror})") from None


def _write_manifest(folder, entries) -> None:
    text = json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    _write(Path(folder) / "manifest.json", text.encode())


def _write(path, content: bytes) -> None:
    """Writes a file at once or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
