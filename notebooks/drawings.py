"""Tables and figures that one notebook draws.

They are long, and what they say is in the picture; a notebook shows what it computes and leaves
the drawing to this module, which it imports from its own folder. Figures take the style that
`notebooks.figures.use_style` has set, and are saved by `notebooks.figures.save_figure`.
"""

import textwrap

from colorlib import lab
from colorlib.embedding import class_names
from colorlib.lab import NEAR_GRAY
from colorlib.model import ab_bins
from colorlib.photos import as_rgb
from notebooks.figures import PAGE, photo_grid
from notebooks.verdicts import interval

import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

SET_COLORS = {"imagenet475": "#56B4E9", "val": "#009E73", "sample": "#0072B2", "kodak24": "#D55E00"}


def block_grid(blocks, captions, titles=None, columns=2):
    """A block of pictures for each photo: as large as two columns allow, whatever their number.

    Args:
        blocks: a list of pictures for each photo, as `photo_grid` takes them.
        captions: a list of texts for each photo, one for each of its pictures.
        titles: a title over each block, or None.
        columns: pictures beside each other. Defaults to 2.

    Returns:
        A matplotlib figure, for `save_figure`.
    """
    rows, notes, heads = [], [], []
    for number, (pictures, texts) in enumerate(zip(blocks, captions, strict=True)):
        for start in range(0, len(pictures), columns):
            missing = [None] * (columns - len(pictures[start : start + columns]))
            rows.append([*pictures[start : start + columns], *missing])
            notes.append([*texts[start : start + columns], *missing])
            heads.append(titles[number] if titles and not start else "")
    return photo_grid(rows, row_titles=heads, captions=notes)


def halves(left, right):
    """One uint8 picture (H, W, 3) of two of one size: the left half of one, the right of another.

    Either may be gray (H, W). A white line parts them.
    """
    left, right = map(as_rgb, (left, right))
    middle = left.shape[1] // 2
    picture = np.concatenate([left[:, :middle], right[:, middle:]], axis=1)
    picture[:, middle - 1 : middle + 1] = 255
    return picture


def trim(rgb, ratio=1.0, top=0.5):
    """The largest part of a photo (H, W, 3) with this ratio of width to height.

    Of what goes above and below, `top` is the share that goes above.
    """
    height, width = rgb.shape[:2]
    high, wide = min(height, round(width / ratio)), min(width, round(height * ratio))
    first, left = int(top * (height - high)), (width - wide) // 2
    return rgb[first : first + high, left : left + wide]


def knob_figure(title, steps, scenes):
    """One photograph along the knob, and under it scenes that somebody chose.

    Args:
        title: what stands over the photograph.
        steps: the photograph (H, W, 3) by the captions of its steps, up to four.
        scenes: four pairs of a caption and a picture (H, W, 3), the last of them a failure.

    Returns:
        A matplotlib figure, for `save_figure`.
    """
    missing = [None] * (len(scenes) - len(steps))
    notes, pictures = zip(*scenes, strict=True)
    return photo_grid(
        [[*steps.values(), *missing], [trim(picture, 4 / 3) for picture in pictures]],
        row_titles=[title, "Chosen by hand: three that came out well, one that did not"],
        captions=[[*steps, *missing], notes],
    )


def pipeline_figure(colorizer, photo):
    """A photo's way through the network of the paper, drawn with what is computed on it.

    Args:
        colorizer: `colorlib.Colorizer` of a network that is told the embedding.
        photo: uint8 array (H, W, 3).

    Returns:
        A matplotlib figure, for `save_figure`.
    """
    lightness = lab.lightness(photo)
    embedding = colorizer.embed([lightness])
    network = colorizer.network
    fused = keras.Model(network.input, network.get_layer("fusion").output)
    plane = colorizer.prepare(lightness).plane[None, ..., None]
    features = fused(colorizer.architecture.inputs(plane, embedding))
    features = keras.ops.convert_to_numpy(features)[0]
    (ab,) = colorizer.predict_ab([lightness], embedding)
    even = np.full_like(lightness, 60)
    tiles = {
        "photo": (0, 0, "photo", photo),
        "l": (1, 0, "its lightness L", lab.gray(photo)),
        "embedding": (0, 1, f"embedding: {embedding.size:,} numbers", None),
        "fusion": (1, 1, f"9 of {features.shape[-1]} fused features", _mosaic(features)),
        "output": (0, 2, "L with these a and b", lab.recombine(lightness, ab)),
        "ab": (1, 2, "a and b, shown at L = 60", lab.recombine(even, ab)),
    }
    edge, wide = 0.06, 2.9  # inches
    across = PAGE - wide - 2 * edge  # from one tile to the next
    tall = wide * photo.shape[0] / photo.shape[1]
    head, down = 0.34, tall + 0.95
    high = 3 * down - 0.55
    figure = plt.figure(figsize=(PAGE, high), layout="none")

    def place(x, y):
        return (edge + x * across) / PAGE, 1 - (y * down + head + tall) / high

    for name, (x, y, title, picture) in tiles.items():
        axes = figure.add_axes((*place(x, y), wide / PAGE, tall / high))
        axes.set_title(title, fontweight="bold", loc="left", pad=4)
        if name == "embedding":
            _embedding_axes(axes, embedding[0])
        else:
            axes.imshow(picture, aspect="auto", cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()

    over = figure.add_axes((0, 0, 1, 1), zorder=5, frameon=False)
    over.set(xlim=(-edge, PAGE - edge), ylim=(high, 0))  # inches, from the first tile's corner
    over.set_axis_off()

    def arrow(start, end, text="", up=0.0):
        style = {"arrowstyle": "-|>", "linewidth": 2, "color": "#D55E00", "mutation_scale": 18}
        over.annotate("", end, start, arrowprops=style)
        x, y = np.add(start, end) / 2
        over.text(x - 0.1, y - up, text, ha="right", va="center", color="#D55E00")

    center, gap = head + tall / 2, (wide + 0.05, across - 0.05)
    below, middle = head + tall + 0.04, across + wide / 2
    arrow((gap[0], center), (gap[1], center))
    arrow((middle, below), (middle, down + 0.03), "encoder")
    arrow((across + 0.2, below), (wide - 0.1, down + 0.03), "backbone", up=0.08)
    arrow((gap[0], down + center), (gap[1], down + center))
    arrow((middle, down + below), (middle, 2 * down + 0.03), "decoder")
    arrow((gap[1], 2 * down + center), (gap[0], 2 * down + center))
    return figure


def _mosaic(features, across=3):
    """The features (h, w, C) that vary most, side by side as one gray picture."""
    most = np.argsort(-features.std(axis=(0, 1)))[: across**2]
    chosen = features[..., most]
    chosen = (chosen - chosen.min((0, 1))) / np.ptp(chosen, axis=(0, 1))
    maps = np.pad(chosen, ((0, 1), (0, 1), (0, 0)), constant_values=1)
    rows = np.split(np.moveaxis(maps, -1, 0), across)
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    return np.repeat(picture[:-1, :-1, None], 3, axis=-1)


def _embedding_axes(axes, embedding):
    """An embedding as a line, with the names of its two highest classes where it has classes."""
    axes.plot(embedding, linewidth=0.6)
    axes.set(xticks=[], yticks=[], xlim=(0, len(embedding)))
    axes.set_ylim(embedding.min(), 1.5 * embedding.max())
    names = [name for _, name in class_names()]
    if len(names) == len(embedding):
        highest = [names[index].split(",")[0] for index in np.argsort(-embedding)[:2]]
        text = textwrap.fill(f"highest: {', '.join(highest)}", 27)
        axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top")


def layer_table(network, size=224):
    """The layers of the paper's network, in order, with what each gives for one photo.

    Args:
        network: The `keras.Model` of `colorlib.model.paper_network`.
        size: Side of the photo in pixels. Defaults to 224, as in the paper's training.

    Returns:
        A DataFrame, a row for each layer: `layer` (its name), `operation`, `height`, `width` and
        `channels` of its output (height and width are 1 for a vector), `parameters`.
    """
    outputs = keras.Model(network.input, {layer.name: layer.output for layer in network.layers})
    photo = {
        name: keras.KerasTensor((1, *(length or size for length in tensor.shape[1:])))
        for name, tensor in network.input.items()
    }
    shapes = outputs(photo)  # Traced, not computed: every layer says what shape it gives.
    rows = []
    for layer in network.layers:
        _, *grid, channels = shapes[layer.name].shape
        height, width = grid or (1, 1)
        rows.append((layer.name, _operation(layer), height, width, channels, layer.count_params()))
    columns = ["layer", "operation", "height", "width", "channels", "parameters"]
    return pd.DataFrame(rows, columns=columns)


def _operation(layer):
    """What a layer does, in words."""
    kind = type(layer).__name__
    if kind == "Conv2D":
        stride = f", stride {layer.strides[0]}" if layer.strides[0] > 1 else ""
        size = "×".join(map(str, layer.kernel_size))
        return f"convolution {size}{stride}, {layer.activation.__name__}"
    words = {
        "InputLayer": "input",
        "PadToStride": "pad to a multiple of 8",
        "Concatenate": "stack the embedding on every place",
        "UpSampling2D": "upsample ×2",
        "CropLike": "crop to the input's size",
        "Activation": "as float32",
    }
    return words.get(kind, kind)


def pyramid_table(network, size=256):
    """The parts of `pyramid`, in order: the backbone, then the decoder's stages by their stride.

    Args:
        network: The `keras.Model` of `colorlib.model.pyramid_network`.
        size: Side of the photo in pixels, a multiple of 32. Defaults to 256.

    Returns:
        A DataFrame, a row for each part: `side` of its map in pixels, `channels` that it takes
        from the backbone, `channels out`, `parameters`, and how many of them are `trained`.
    """
    body = network.get_layer("body")
    decoder = [layer for layer in network.layers if layer is not body]
    rows = {"backbone": (None, None, None, [body])}
    for stride in (32, 16, 8, 4):
        part = [layer for layer in decoder if f"_{stride}_" in f"{layer.name}_"]
        part += [layer for layer in decoder if layer.name.startswith("whole") and stride == 32]
        width = body.output[f"stride_{stride}"].shape[-1]
        out = network.get_layer(part[-1].name).output.shape[-1]
        rows[f"stride {stride}"] = (size // stride, width, out, part)
    last = [network.get_layer("bins")]
    rows["probabilities"] = (size // 4, None, last[0].output.shape[-1], last)
    rows["all"] = (None, None, None, [network])
    table = {}
    for name, (side, width, out, part) in rows.items():
        trained = sum(np.prod(w.shape) for layer in part for w in layer.trainable_weights)
        count = sum(layer.count_params() for layer in part)
        table[name] = (side, width, out, count, trained)
    columns = ["side", "channels from the backbone", "channels out", "parameters", "trained"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns)


def network_figure(network, size=224, backbone="backbone"):
    """Draws the network of the paper from its layers: encoder, fusion, decoder.

    Every bar is a feature map: as high as the map, as wide as it has channels.

    Args:
        network: The `keras.Model` of `colorlib.model.paper_network`.
        size: Side of the photo in pixels. Defaults to 224.
        backbone: Name of the classifier that makes the embedding.

    Returns:
        A matplotlib figure, for `save_figure`.
    """
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
    figure = plt.figure(figsize=(PAGE, 4.6), layout="none")
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    high, gap, x, middle, spans, before = 2.3, 0.25, 0.0, 0.0, {}, None
    text = {"ha": "center"}
    for name, row in table.iterrows():
        tall, wide = high * row.height / size, max(row.channels * 0.0007, 0.03)
        color = parts[row.part][1]
        box = {"linewidth": 0.8, "edgecolor": color}
        axes.add_patch(plt.Rectangle((x, -tall / 2), wide, tall, fc=color + "55", **box))
        if name == "fusion_stack":
            wide_vector = wide * length / row.channels
            middle = x + wide - wide_vector / 2
            corner = (x + wide - wide_vector, -tall / 2)
            axes.add_patch(plt.Rectangle(corner, wide_vector, tall, fc="#CC79A7", **box))
        # Upright, as the bars are narrower than their numbers.
        label = f"{row.channels}"
        axes.text(x + wide / 2, tall / 2 + 0.08, label, va="bottom", rotation=90, **text)
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


def pyramid_figure(network, size=256):
    """Draws `pyramid` from its layers: the backbone's maps, and the decoder that fuses them.

    Every square is a map: as large as it is for a photo of this size.

    Args:
        network: The `keras.Model` of `colorlib.model.pyramid_network`.
        size: Side of the photo in pixels, a multiple of 32. Defaults to 256.

    Returns:
        A matplotlib figure, for `save_figure`.
    """
    table = pyramid_table(network, size)
    strides = [row for row in table.index if row.startswith("stride")][::-1]  # the finest on top
    blue, green, pink = "#0072B2", "#009E73", "#CC79A7"
    figure = plt.figure(figsize=(PAGE, 6.7), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PAGE), ylim=(0.05, 6.75))
    axes.set_axis_off()
    left, right, scale = 1.5, 5.3, 1.15 / table.side[strides[0]]

    def square(x, y, side, color):
        side *= scale
        corner = (x - side / 2, y - side / 2)
        axes.add_patch(plt.Rectangle(corner, side, side, fc=color + "55", edgecolor=color))
        return side / 2

    def arrow(start, end, color="#777777"):
        style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.5, "mutation_scale": 14}
        axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0})

    whole = table.loc["all"]
    counts = {
        left: ("Backbone", int(table.parameters["backbone"]), blue),
        right: ("Decoder", int(whole.parameters - table.parameters["backbone"]), green),
    }
    for x, (part, count, color) in counts.items():
        text = f"{part}\n{count:,} parameters"
        axes.text(x, 6.65, text, ha="center", va="top", color=color, fontweight="bold")
    bottom_left = bottom_right = None
    for y, name in zip((4.7, 3.2, 2.05, 1.15), strides, strict=True):
        stride, row = int(name.split()[1]), table.loc[name]
        half = square(left, y, row.side, blue)
        square(right, y, row.side, green)
        given = network.get_layer(f"lateral_{stride}").output.shape[-1]
        axes.text(left - half - 0.1, y, _map_text(row, "channels from the backbone"), ha="right",
                  va="center")  # fmt: skip
        axes.text(right + half + 0.1, y, _map_text(row, "channels out"), va="center")
        arrow((left + half + 0.05, y), (right - half - 0.05, y))
        axes.text((left + right) / 2, y + 0.05, f"{given} channels", ha="center", va="bottom")
        if bottom_left is not None:
            arrow((left, bottom_left - 0.05), (left, y + half + 0.05))
            arrow((right, y + half + 0.05), (right, bottom_right - 0.05))
        bottom_left = bottom_right = y - half
    # The deepest map's mean over the photo, in the place of the paper's embedding.
    given = network.get_layer("whole_project").output.shape[-1]
    axes.plot([left, left, right], [y - half - 0.05, 0.5, 0.5], color=pink, linewidth=1.5)
    arrow((right, 0.5), (right, y - half - 0.05), pink)
    text = f"their mean over the photo, as {given} numbers"
    axes.text((left + right) / 2, 0.42, text, ha="center", va="top", color=pink)
    # In and out.
    arrow((left, 5.75), (left, 4.7 + 0.62))
    axes.text(left, 5.78, f"L, {size} × {size}", ha="center", va="bottom")
    arrow((right, 4.7 + 0.62), (right, 5.75))
    bins = int(table["channels out"]["probabilities"])
    axes.text(right, 5.78, f"{bins} probabilities", ha="center", va="bottom")
    return figure


def _map_text(row, channels):
    return f"{row.side:.0f}²\n× {row[channels]:,.0f}"


def color_figure(ab, photo_chroma):
    """The colors of many pixels: above in the ab plane, below how far from gray they are.

    Args:
        ab: Array (N, 2), a and b in units of Lab.
        photo_chroma: The mean chroma of each photo.

    Returns:
        A matplotlib figure, for `save_figure`.
    """
    figure, (plane, histogram) = plt.subplots(2, 1, height_ratios=(1.5, 1), figsize=(PAGE, 8.6))
    *_, image = plane.hist2d(*ab.T, bins=np.arange(-100, 101, 2), norm=matplotlib.colors.LogNorm())
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
    histogram.axvline(NEAR_GRAY, color="#777777", linestyle="--", label="photos below: near-gray")
    rug = np.zeros(len(photo_chroma))
    histogram.plot(photo_chroma, rug, "|", color="#D55E00", markersize=12, label="a photo's mean")
    histogram.legend()
    histogram.set(title="Chroma", xlabel="distance from gray", ylabel="% of the pixels")
    return figure


def distribution_figure(photo, place, probability, truth, answers):
    """The distribution over colors that a network gives one place of a photo.

    Above the place, and the answers and the true color as patches; below the bins of the ab plane,
    each in its color at the place's L, its area its probability, with the path of the answers.

    Args:
        photo: uint8 array (H, W, 3).
        place: row and column, px.
        probability: array (Q,), of the colors `colorlib.model.ab_bins()`.
        truth: a and b of the place in the original.
        answers: a and b by name, in the order of the path.

    Returns:
        A matplotlib figure, for `save_figure`.
    """
    row, column = place
    lightness = lab.lightness(photo)[row, column]

    def shown(ab):
        ab = np.asarray(ab, "float32").reshape(1, -1, 2)
        return lab.recombine(np.full(ab.shape[:2], lightness, "float32"), ab)[0] / 255

    figure = plt.figure(figsize=(PAGE, 8.6))
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.9), width_ratios=(1.5, 1))
    left, plane, right = map(figure.add_subplot, (grid[0, 0], grid[1, :], grid[0, 1]))
    left.imshow(lab.gray(photo), cmap="gray", vmin=0, vmax=255)
    ring = {"markersize": 16, "fillstyle": "none", "color": "#D55E00", "markeredgewidth": 2.5}
    left.plot(column, row, "o", **ring)
    left.set(title="The place")
    left.set_axis_off()

    bins, edge = ab_bins(), {"edgecolors": "#777777", "linewidths": 0.4}
    area = 1500 * probability / max(probability.max(), 0.1)
    plane.scatter(*bins.T, s=area, c=shown(bins), **edge)
    path = np.array(list(answers.values()))
    plane.plot(*path.T, ".-", color="#222222", markersize=5, linewidth=1.2)
    plane.plot(*path[0], "s", color="#222222", markersize=6, label=next(iter(answers)))
    plane.plot(*truth, "*", color="#D55E00", markeredgecolor="white", markersize=15, label="true")
    figure.legend(*plane.get_legend_handles_labels(), loc="outside lower center", ncols=2)
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
        A matplotlib figure, for `save_figure`.
    """
    size = (PAGE, 0.3 + 3.9 * len(cards))
    figure, panels = plt.subplots(len(cards), 1, sharey=True, squeeze=False, figsize=size)
    panels = panels[:, 0]
    shown, top = [], 0.0
    for axes, card in zip(panels, cards, strict=True):
        history, floors = card["history"], card["floors"]
        steps, loss, held_out_loss, held_out = (
            [row[name] for row in history] for name in ("step", "loss", "val_loss", "val_mse")
        )
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
        axes.legend(ncols=2, **frame)
        axes.set(ylabel="MSE of ab / 127")
        shown += [*training, *held_out, *floors.values()]
        top = max(top, min(held_out), *floors.values())
    # The first steps, from random weights, would squeeze all that follows into a line.
    panels[0].set(ylim=(0.75 * min(shown), 1.04 * min(max(shown), 2 * top)))
    return figure


def colorfulness_figure(scores, shares):
    """Colorfulness of outputs against originals: a panel per preset, a color per set of photos.

    Args:
        scores: pandas.DataFrame. Rows of `metrics.score` with the columns `source`, `set` and
            `preset`. Near-gray photos are left out.
        shares: dict by (source, set, preset): the outputs' mean colorfulness over the originals'.

    Returns:
        A matplotlib figure.
    """
    rows = scores[(scores["method"] == "model") & ~scores["near_gray"].astype(bool)]
    presets = rows["preset"].unique()
    size = (PAGE, 0.4 + 3.8 * len(presets))
    figure, panels = plt.subplots(len(presets), 1, figsize=size, squeeze=False)
    panels = panels[:, 0]
    for axes, preset in zip(panels, presets, strict=True):
        # The reference run lies below: it has the most photos.
        of_preset = rows[rows["preset"] == preset].sort_values(
            "source", ascending=False, kind="stable"
        )
        for (source, name), points in of_preset.groupby(["source", "set"], sort=False):
            many = len(points) > 100
            axes.scatter(
                points["truth_colorfulness"],
                points["colorfulness"],
                s=8 if many else 22,
                color=SET_COLORS.get(name, "#CC79A7"),
                alpha=0.5 if many else 0.9,
                linewidths=0,
                label=f"{name}\n({source}):\n"
                f"{100 * shares[source, name, preset]:.0f} % of the truth",
            )
        axes.axline((0, 0), slope=1, color="#777777", linewidth=1)
        axes.set(title=preset, xlabel="colorfulness of the original", ylabel="of the output")
        axes.set(aspect="equal", anchor="W")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    most = max(axes.dataLim.xmax for axes in panels)
    highest = max(axes.dataLim.ymax for axes in panels)
    plt.setp(panels, xlim=(0, 1.05 * most), ylim=(0, max(1.1 * highest, 0.65 * most)))
    return figure


def gains_figure(gains, title):
    """Bars of the photos' gains in dB, in the order given: green above zero, orange below."""
    figure, axes = plt.subplots(figsize=(PAGE, 3.2))
    axes.bar(range(len(gains)), gains, color=np.where(gains > 0, "#009E73", "#D55E00"))
    axes.set(title=title, xlabel="photos, by gain", ylabel="dB", xticks=[])
    return figure


def forest_figure(differences, arms, title, label):
    """Differences from a baseline with their intervals: a row for each arm, a color for each set.

    Args:
        differences: pandas.DataFrame with `arm`, `set`, `difference`, `low` and `high`.
        arms: list of str. The rows, from the top.
        title, label: str. Of the figure and of its axis.

    Returns:
        A matplotlib figure.
    """
    sets = list(dict.fromkeys(differences["set"]))
    figure, axes = plt.subplots(figsize=(PAGE, 1.6 + 0.24 * len(arms) * (len(sets) + 1)))
    for number, name in enumerate(sets):
        rows = differences[differences["set"] == name].set_index("arm").loc[list(arms)]
        places = np.arange(len(arms)) + (number + 1) / (len(sets) + 1) - 0.5
        axes.errorbar(
            rows["difference"],
            places,
            xerr=[rows["difference"] - rows["low"], rows["high"] - rows["difference"]],
            fmt="o",
            markersize=5,
            color=SET_COLORS.get(name, "#CC79A7"),
            label=name,
        )
    axes.axvline(0, color="#777777", linewidth=1)
    axes.set_yticks(range(len(arms)), arms)
    axes.set(ylim=(len(arms) - 0.5, -0.5), xlabel=label, title=title)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def regions_figure(draws, presets):
    """How much of the true chroma is kept, with intervals: by size of region and by hue.

    Args:
        draws: dict by (preset, "size" or "group") of `verdicts.region_draws`.
        presets: list of str.

    Returns:
        A matplotlib figure.
    """
    panels = {"size": "by the region's share of the photo", "group": "by true hue"}
    groups = {by: list(draws[next(iter(presets)), by]) for by in panels}
    heights = [len(names) for names in groups.values()]
    figure, axes = plt.subplots(
        2, 1, figsize=(PAGE, 2.0 + 0.55 * sum(heights)), height_ratios=heights, sharex=True
    )
    for (by, title), panel in zip(panels.items(), axes, strict=True):
        for number, (preset, color) in enumerate(
            zip(presets, ("#0072B2", "#E69F00"), strict=False)
        ):
            kept = np.stack([100 * draws[preset, by][group]["kept"] for group in groups[by]])
            low, high = np.transpose([interval(row) for row in kept])
            places = np.arange(len(kept)) + (number - 0.5) * 0.38
            errors = [kept[:, 0] - low, high - kept[:, 0]]
            style = {"color": color, "label": preset, "ecolor": "#333333"}
            panel.barh(places, kept[:, 0], height=0.36, xerr=errors, **style)
        panel.set_yticks(range(len(groups[by])), [name.split(":")[0] for name in groups[by]])
        panel.set(ylim=(len(groups[by]) - 0.5, -0.5), title=title)
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", length=0)
    axes[0].legend(loc="lower right", framealpha=1, frameon=True, edgecolor="none")
    axes[1].set(xlabel="chroma kept, %")
    return figure
