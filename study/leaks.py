"""Tests whether anything but pixels tells colored photos from originals.

Everything that a client receives with a photo, except its pixels, becomes numbers. Two permutation
tests then ask whether any of them is related to the truth. **Within scenes**, the versions of a
scene are exchanged; this finds the smallest systematic difference of a pair. **Between** scenes,
labels are shuffled over all photos; this is what somebody who sees one version of each scene could
learn.
"""

import numpy as np
import pandas as pd

from study.encoding import split_jpeg
from study.stimuli import ORIGINAL

_TAIL = 64  # Bytes at the end of a file that are looked at one by one.
_ROUNDING = 1e-9  # Sums that differ by less are equal.


def visible(stimuli) -> pd.DataFrame:
    """What a client sees of each stimulus besides its pixels.

    These are the file's length, modification time and name; every byte before the coded picture,
    including the tables and the size of the picture; the last bytes of the padding, one by one; and
    how often each of 16 groups of values occurs in the padding. The length of the coded picture
    counts as pixels: whoever can find its end can decode it.

    Args:
        stimuli: `study.stimuli.Stimuli`.

    Returns:
        DataFrame of numbers, a row per stimulus in the order of `stimuli.table`.
    """
    rows = {}
    for stimulus in stimuli.table["stimulus"]:
        content = stimuli.read(stimulus)
        header, coded, padding = split_jpeg(content)
        groups = np.bincount(np.frombuffer(padding, np.uint8) >> 4, minlength=16)
        row = {
            "length": len(content),
            "modified": (stimuli.folder / "images" / f"{stimulus}.jpg").stat().st_mtime,
            "name": int(stimulus, 16) / 2**64,
            "header length": len(header),
        }
        row |= {f"name {place}": int(digit, 16) for place, digit in enumerate(stimulus)}
        row |= {f"header {place}": value for place, value in enumerate(header)}
        row |= {f"padding {group}": n / len(padding) for group, n in enumerate(groups)}
        row |= {f"byte -{_TAIL - place}": value for place, value in enumerate(content[-_TAIL:])}
        rows[stimulus] = row
    return pd.DataFrame.from_dict(rows, orient="index").fillna(-1).astype(float)


def coded_lengths(stimuli) -> pd.Series:
    """The length of each stimulus without its padding, in bytes, by stimulus."""
    names = stimuli.table["stimulus"]
    sizes = [sum(map(len, split_jpeg(stimuli.read(name))[:2])) for name in names]
    return pd.Series(sizes, index=list(names), name="coded bytes")


def within_scenes(features, table, *, permutations=2000, seed=1) -> tuple[float, str]:
    """Permutation test over pairs of one scene: an original and one of its other versions.

    The statistic is the largest standardized sum of differences over all features. Exchanging the
    two of a pair reverses the sign of its difference.

    Args:
        features: DataFrame of numbers with a row per stimulus, as of `visible`.
        table: DataFrame, the key.
        permutations: int.
        seed: int.

    Returns:
        (p, the feature that differs most or "").
    """
    key = table.set_index("stimulus")
    originals = key[key["version"] == ORIGINAL].reset_index().set_index("scene")["stimulus"]
    fakes = key[key["version"] != ORIGINAL]
    values = features.loc[fakes.index].to_numpy()
    difference = values - features.loc[originals[fakes["scene"]]].to_numpy()
    scale = np.sqrt((difference**2).sum(0))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (permutations, len(difference)))
    return _largest(np.ones(len(difference)), signs, difference, scale, features.columns)


def between_scenes(features, table, *, permutations=2000, seed=1) -> tuple[float, str]:
    """Permutation test over all stimuli, whatever their scene; arguments and result as within."""
    key = table.set_index("stimulus").loc[features.index]
    values = features.to_numpy()
    centered = values - values.mean(0)
    scale = np.sqrt((centered**2).sum(0))
    labels = (key["version"] != ORIGINAL).to_numpy(float)
    labels -= labels.mean()
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(labels, (permutations, 1)), axis=1)
    return _largest(labels, shuffled, centered, scale, features.columns)


def _largest(actual, permuted, values, scale, names):
    """p and name of the largest of |weights @ values| / scale, over features that vary."""
    varies = scale > _ROUNDING
    if not varies.any():
        return 1.0, ""
    scaled = values[:, varies] / scale[varies]
    found = np.abs(actual @ scaled)
    chance = np.abs(permuted @ scaled).max(1)
    as_large = (chance >= found.max() - _ROUNDING).sum()
    return (1 + as_large) / (1 + len(permuted)), str(names[varies][found.argmax()])
