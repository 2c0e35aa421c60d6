"""What the front page says was found: computed from the scores that ship with the presets."""

from colorlib import metrics, presets

import pandas as pd

ORDER = ("paper", "pyramid")
# The sets of photos, from the one most like the training to the ones least like it.
SETS = {
    "imagenet475": "photos of ImageNet",
    "val": "photos of collections left out of the training",
    "sample": "photos packaged with this project",
    "kodak24": "scans of film by Kodak",
}


def findings():
    """A row for each set: how many photos, and for each preset its error against the better floor.

    Returns:
        list of dict: `set`, `about`, `photos`, `presets`; the last is a list of dict: `name`,
        `error` and `low` to `high`, in percent of the better floor's pooled ab-RMSE (below zero is
        better), `floor`, its name, `verdict` as in `metrics.compare`, and `color`, the
        colorfulness in percent of the originals'.
    """
    tables = [
        pd.read_parquet(presets.preset_folder(name) / presets.SCORES).assign(preset=name)
        for name in ORDER
    ]
    comparison = metrics.compare(pd.concat(tables), ["set", "preset"]).sort_index()
    rows = []
    for key, about in SETS.items():
        columns = [_against_floor(comparison.loc[key, name], name) for name in ORDER]
        photos = int(comparison.loc[key, ORDER[0], "ab_rmse"]["photos"])
        rows.append({"set": key, "about": about, "photos": photos, "presets": columns})
    return rows


def _against_floor(table, name):
    error, color = table.loc["ab_rmse"], table.loc["colorfulness"]
    percent = 100 / error[error["better_floor"]]
    return {
        "name": name,
        "error": error["difference"] * percent,
        "low": error["difference_low"] * percent,
        "high": error["difference_high"] * percent,
        "floor": error["better_floor"],
        "verdict": error["verdict"],
        "color": 100 * color["value"] / color["truth"],
    }
