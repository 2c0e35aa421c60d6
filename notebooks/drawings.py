"""Tables and figures that one notebook draws."""

import matplotlib.pyplot as plt
import numpy as np

# 03_results


def colorfulness_figure(scores, shares):
    """Colorfulness of outputs against originals: a panel per preset, a color per set of photos.

    Args:
        scores: pandas.DataFrame. Rows of `metrics.score` with the columns `source`, `set` and
            `preset`. Near-gray photos are left out.
        shares: dict by (source, set, preset): the outputs' mean colorfulness over the originals'.

    Returns:
        A matplotlib figure.
    """
    colors = {"imagenet475": "#56B4E9", "kodak24": "#D55E00", "sample": "#0072B2"}
    rows = scores[(scores["method"] == "model") & ~scores["near_gray"].astype(bool)]
    presets = rows["preset"].unique()
    width = 9 if len(presets) > 1 else 6
    figure, panels = plt.subplots(1, len(presets), figsize=(width, 4.8), sharey=True, squeeze=False)
    for axes, preset in zip(panels[0], presets, strict=True):
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
                color=colors.get(name, "#009E73"),
                alpha=0.5 if many else 0.9,
                linewidths=0,
                label=f"{name} ({source}): {100 * shares[source, name, preset]:.0f} % of the truth",
            )
        axes.axline((0, 0), slope=1, color="#777777", linewidth=1)
        axes.set(title=preset, xlabel="colorfulness of the original", aspect="equal", anchor="N")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2))
    panels[0][0].set(ylabel="colorfulness of the output")
    most = max(axes.dataLim.xmax for axes in panels[0])
    highest = max(axes.dataLim.ymax for axes in panels[0])
    plt.setp(panels, xlim=(0, 1.05 * most), ylim=(0, max(1.1 * highest, 0.65 * most)))
    return figure


def gains_figure(gains, title):
    """Bars of the photos' gains in dB, in the order given: green above zero, orange below."""
    figure, axes = plt.subplots(figsize=(7.0, 3.2))
    axes.bar(range(len(gains)), gains, color=np.where(gains > 0, "#009E73", "#D55E00"))
    axes.set(title=title, xlabel="photos, by gain", ylabel="dB", xticks=[])
    return figure
