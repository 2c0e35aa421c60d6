"""Numbers in the README and in the notebooks' prose are those of the cards and scores.

Nothing here imports the library's metrics or a network: the numbers are computed again from the
shipped files by hand.
"""

import csv
import gzip
import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import h5py
import pytest
from pyarrow import parquet

from colorlib import presets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARDS = {name: presets.load_card(name) for name in presets.preset_names()}


def markdown_of(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


NOTEBOOKS = {
    path.relative_to(ROOT).as_posix(): markdown_of(path)
    for folder in ("notebooks", "study")
    for path in sorted((ROOT / folder).glob("*.ipynb"))
}


def summary(rows):
    """The metrics of one method on one set, from its rows of `scores.parquet`."""
    total = {
        name: sum(row[name] for row in rows)
        for name in rows[0]
        if name not in ("set", "method", "file", "near_gray")
    }
    return {
        "ab_rmse": math.sqrt(total["ab_sse"] / total["n_pixels"] / 2),
        "ab_psnr": total["ab_psnr"] / len(rows),
        "auc": total["auc_sum"] / total["n_pixels"],
        "colorfulness_percent": 100 * total["colorfulness"] / total["truth_colorfulness"],
        "photos": len(rows),
    }


def summaries(preset):
    """By set and method."""
    rows = defaultdict(list)
    path = presets.preset_folder(preset) / presets.SCORES
    for row in parquet.read_table(path).to_pylist():
        if not row["near_gray"]:
            rows[row["set"], row["method"]].append(row)
    return {key: summary(rows) for key, rows in rows.items()}


def scored(preset, set_name):
    """The rows of a preset's scores of a set, one for each photo, near-gray ones among them."""
    path = presets.preset_folder(preset) / presets.SCORES
    filters = [("set", "==", set_name), ("method", "==", "model")]
    return parquet.read_table(path, filters=filters).to_pylist()


SCORES = {preset: summaries(preset) for preset in CARDS}
SETS = sorted({name for name, _ in SCORES["paper"]})


def floors(preset, set_name, metric):
    """Both floors' values beside a preset: its own training photos give the mean color."""
    return {floor: SCORES[preset][set_name, floor][metric] for floor in ("gray", "mean ab")}


def result(preset, set_name, vividness):
    """What the card says of a set at a vividness."""
    (found,) = [
        entry for entry in CARDS[preset]["results"][set_name] if entry["vividness"] == vividness
    ]
    return found


@pytest.mark.parametrize("preset", CARDS)
def test_a_card_says_what_the_scores_say(preset):
    card = CARDS[preset]
    assert sorted(card["results"]) == SETS
    for name in SETS:
        said, computed = result(preset, name, card.get("vividness")), SCORES[preset][name, "model"]
        for metric in ("ab_rmse", "ab_psnr", "auc", "colorfulness_percent", "photos"):
            decimals = len(str(said[metric]).partition(".")[2])
            assert said[metric] == pytest.approx(computed[metric], abs=0.51 * 10**-decimals)
        error, decibels, area = (
            floors(preset, name, metric).values() for metric in ("ab_rmse", "ab_psnr", "auc")
        )
        percent = 100 * (1 - computed["ab_rmse"] / min(error))
        assert said["percent_under_better_floor"] == pytest.approx(percent, abs=0.006)
        gain = computed["ab_psnr"] - max(decibels)
        assert said["db_over_better_floor"] == pytest.approx(gain, abs=6e-4)
        assert said["auc_of_better_floor"] == pytest.approx(max(area), abs=6e-5)


# The README's table of results: a column per preset, vividness or floor; a row per metric and set


def tables(text):
    """The tables of a page: lists of rows, each a list of cells, without the line of dashes."""
    for block in re.findall(r"(?:^ *\|.*\n?)+", text, re.MULTILINE):
        rows = [line.strip().strip("|").split("|") for line in block.strip().splitlines()]
        yield [[cell.strip() for cell in row] for row in rows if set("".join(row)) - set(":- ")]


def results_table():
    """The header and the rows of the one table that has both floors as columns."""
    (table,) = [table for table in tables(README) if {"gray", "mean ab"} <= set(table[0])]
    return table[0], table[1:]


def column_of(header):
    """(preset, vividness) of a column, or (floor, None)."""
    name = header.replace("`", "")
    if name in ("gray", "mean ab"):
        return name, None
    (preset,) = [preset for preset in CARDS if preset in name]
    vividness = re.search(r"\d(\.\d+)?", name)
    return preset, float(vividness[0]) if vividness else None


def metric_and_set(label):
    kinds = {"ab-RMSE": "ab_rmse", "ab-PSNR": "ab_psnr", "colorfulness": "colorfulness_percent"}
    (metric,) = [metric for kind, metric in kinds.items() if kind in label]
    (name,) = [name for name in SETS if name in label]
    return metric, name


def assert_rounded(shown, value, digits_of_value=None):
    """`shown` is a text such as "14.78": the value rounded to as many digits as it has.

    A value from a card is itself rounded, to `digits_of_value` digits.
    """
    decimals = len(shown.partition(".")[2])
    if digits_of_value is None:
        assert shown.lstrip("+") == f"{value:.{decimals}f}"
    else:
        slack = 0.5 * 10**-decimals + 0.5 * 10**-digits_of_value
        assert abs(float(shown) - value) <= slack + 1e-9, f"{shown} for {value}"


HEADER, ROWS = results_table()


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_readme_shows_the_results(row):
    metric, name = metric_and_set(row[0])
    for header, cell in zip(HEADER[1:], row[1:], strict=True):
        column, vividness = column_of(header)
        if column not in CARDS:
            assert metric == "colorfulness_percent" or cell
            if cell:
                assert_rounded(
                    cell.strip("*"), floors(presets.DEFAULT_PRESET, name, metric)[column]
                )
            continue
        shown, *gain = re.findall(r"[+-]?\d+(?:\.\d+)?", cell)
        said = result(column, name, vividness)
        if vividness == CARDS[column].get("vividness"):
            value = SCORES[column][name, "model"][metric]
            assert_rounded(shown, value)
        else:  # The scores of single photos do not ship.
            value = said[metric]
            assert_rounded(shown, value, 1 if metric == "colorfulness_percent" else 3)
        if gain and metric == "ab_rmse":
            percent = 100 * (1 - value / min(floors(column, name, metric).values()))
            assert ("under" in cell) == (percent > 0) and ("over" in cell) == (percent < 0)
            assert_rounded(gain[0], abs(said["percent_under_better_floor"]), 2)
        elif gain:
            better = max(floors(column, name, metric).values())
            assert metric == "ab_psnr" and gain[0][0] == ("+" if value > better else "-")
            assert_rounded(gain[0], said["db_over_better_floor"], 3)


def test_the_readme_has_both_presets_and_all_sets():
    columns = [column_of(header) for header in HEADER[1:]]
    assert {name for name, _ in columns} == {*CARDS, "gray", "mean ab"}
    assert {metric_and_set(row[0])[1] for row in ROWS} == set(SETS)
    assert {metric_and_set(row[0])[0] for row in ROWS} >= {"ab_rmse", "ab_psnr"}


def test_what_is_bold_in_the_readme_is_the_best_of_its_row():
    for label, *cells in ROWS:
        metric, _ = metric_and_set(label)
        values = [float(re.search(r"\d+(\.\d+)?", cell)[0]) for cell in cells if cell]
        bold = [float(value) for cell in cells for value in re.findall(r"\*\*([\d.]+)\*\*", cell)]
        best = [(min if metric == "ab_rmse" else max)(values)]
        assert bold == (best if metric in ("ab_rmse", "ab_psnr") else []), label


def percentages():
    """How far under (positive) or over the better floor: all that the cards say."""
    return [
        entry["percent_under_better_floor"]
        for card in CARDS.values()
        for entries in card["results"].values()
        for entry in entries
    ]


def test_percentages_from_a_floor_are_on_a_card():
    found = re.findall(r"(\d+\.\d) % (under|below|over|above)", README)
    assert len(found) > 10
    for shown, side in found:
        sign = 1 if side in ("under", "below") else -1
        assert any(abs(sign * float(shown) - percent) < 0.0551 for percent in percentages()), shown


def test_the_readme_counts_the_photos_that_were_scored():
    readme = README.replace("\n", " ")
    (imagenet,) = re.findall(
        r"On (\d+) ImageNet photos outside the training set "
        r"\(imagenet475 without its (\d+) near-gray ones\)",
        readme,
    )
    (kodak,) = re.findall(r"On the (\d+) photos of Kodak's test set \(kodak24\)", readme)
    for preset in CARDS:
        near_gray = [row["near_gray"] for row in scored(preset, "imagenet475")]
        assert imagenet == (str(near_gray.count(False)), str(near_gray.count(True)))
        assert [row["near_gray"] for row in scored(preset, "kodak24")] == [False] * int(kodak)


def test_the_cost_of_an_archive_follows_from_the_measured_rates():
    folder = ROOT / "tests" / "benchmarks"
    measured = (folder / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    folders = re.findall(r"photos of (0\.\d) megapixels.*? took \d+ s: (\d+) ", measured)
    text = (folder / "cluster.md").read_text(encoding="utf-8")
    rows = [cells for table in tables(text) for cells in table if "megapixels" in cells[0]]
    shown = {row[0].split()[0]: row for row in rows if row[1].isdigit()}
    assert len(folders) == 2 and set(dict(folders)) == set(shown)
    for size, rate in folders:
        hours = 2e6 / int(rate) / 3600
        assert shown[size][1:] == [rate, f"{hours:.0f}", f"{0.05 * hours:.1f}"]


# What the ablation found


def ablation_errors(set_name, arm):
    """The pooled ab-RMSE of each training of an arm on a set: dict by seed."""
    table = parquet.read_table(
        ROOT / "notebooks" / "data" / "ablation.parquet",
        filters=[("set", "==", set_name), ("arm", "==", arm)],
    )
    sums = defaultdict(Counter)
    for row in table.to_pylist():
        if not row["near_gray"]:
            sums[row["seed"]].update({name: row[name] for name in ("ab_sse", "n_pixels")})
    return {seed: math.sqrt(n["ab_sse"] / n["n_pixels"] / 2) for seed, n in sums.items()}


def test_the_readme_says_what_the_fusion_adds():
    readme, word = README.replace("\n", " "), ["one", "two", "three"]
    (said,) = re.findall(
        r"error that is (\d\.\d) % larger on val. On the ImageNet photos it is (\d\.\d) % larger, ",
        readme,
    )
    for shown, name in zip(said, ("val", "imagenet475"), strict=True):
        own, none = (ablation_errors(name, arm) for arm in ("own", "none"))
        assert set(own) == set(none)
        assert all(none[seed] > own[seed] for seed in own), "in each of the trainings"
        assert_rounded(shown, 100 * (sum(none.values()) / sum(own.values()) - 1))
        count = word[len(own) - 1]
        assert f"crops; {count} for each)" in readme


# Sizes


def parameters(preset):
    """Of a preset's weights: all, and for `pyramid` the backbone's and the decoder's trained."""
    backbone, statistics, total = 0, 0, 0

    def count(path, item):
        nonlocal backbone, statistics, total
        if isinstance(item, h5py.Dataset):
            total += item.size
            if path.startswith("layers/functional/"):  # a model within the model
                backbone += item.size
            elif "batch_normalization" in path and path[-1] in "23":  # moving mean and variance
                statistics += item.size

    with h5py.File(presets.preset_folder(preset) / presets.WEIGHTS) as file:
        file.visititems(count)
    return {"all": total, "backbone": backbone, "trained": total - backbone - statistics}


def known_numbers():
    """Numbers of 100,000 and more that prose may name, and where they come from."""
    paper, pyramid = parameters("paper"), parameters("pyramid")
    crops = [
        card["config"]["batch"] * card["config"]["epochs"] * card["config"]["steps_per_epoch"]
        for card in CARDS.values()
    ]
    # A run that started from another's weights: its card tells of both.
    told = re.findall(
        r"\b\d{1,3}(?:,\d{3})+\b", json.dumps([card["about"] for card in CARDS.values()])
    )
    told = {int(number.replace(",", "")) for number in told}
    # The paper's own backbone has a 1001st logit, which its fusion gives 256 filters.
    return {*paper.values(), paper["all"] + 256, *pyramid.values(), *crops, *told}


@pytest.mark.parametrize("page", ["README.md", *NOTEBOOKS])
def test_large_numbers_are_counted(page):
    text = README if page == "README.md" else NOTEBOOKS[page]
    found = {int(n.replace(",", "")) for n in re.findall(r"\b\d{1,3}(?:,\d{3})+\b", text)}
    assert {n for n in found if n >= 100_000} <= known_numbers()


def test_the_readme_says_how_large_the_networks_are():
    for preset in CARDS:
        assert f"{parameters(preset)['all']:,}" in README


@pytest.mark.parametrize("preset", CARDS)
def test_the_readme_has_the_photos_and_crops_of_the_cards(preset):
    """Those of the last training, which the card counts, and of those before it."""
    card = CARDS[preset]
    (said,) = [row[2] for row in card["about"]["differs_from_paper"] if row[0] == "crops seen"]
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]{4,}", said)]
    *parts, total = numbers
    assert sum(parts) == total and said.endswith(f": {total:,}")
    (table,) = [table for table in tables(README) if f"preset `{preset}`" in " ".join(table[0])]
    column = [f"preset `{preset}`" in name for name in table[0]].index(True)
    rows = {row[0]: row for row in table}
    assert rows["crops seen"][column].startswith(f"{total:,} of ")
    photos = f"{card['data']['training']['photos']:,}"
    assert photos in rows["training photos"][column].replace("the same", rows["training photos"][2])


def test_the_results_notebook_types_no_result():
    text = NOTEBOOKS["notebooks/03_results.ipynb"]
    text = re.sub(r"\$\$.*?\$\$|\]\([^)]*\)", "", text, flags=re.DOTALL)  # formulas, addresses
    assert set(re.findall(r"\d+\.\d+|\d+ ?(?:%|dB)", text)) == {"95 %"}  # the intervals' level


def test_the_data_card_counts_the_photos_of_the_manifest():
    """Of the preset whose photos it lists: file names begin with the name of their collection."""
    counts = defaultdict(Counter)
    path = presets.preset_folder("pyramid") / presets.MANIFEST
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = re.sub(r"_[0-9a-f]{10}\.avif$", "", row["file"].split("/")[1])
            counts[row["split"]][name] += 1
    card = (Path(presets.__file__).parent / "assets" / "DATA.md").read_text(encoding="utf-8")
    kinds, *shown, _ = tables(card)
    for split, table in zip(("training", "validation"), shown, strict=True):
        assert {row[0]: int(row[1].replace(",", "")) for row in table[1:]} == counts[split]
    total = sum(counts["training"].values())
    assert sum(int(row[1].replace(",", "")) for row in kinds[1:]) == total
    assert f"{total:,} photographs of {len(counts['training'])} public collections" in card
    data = CARDS["pyramid"]["data"]
    assert (total, sum(counts["validation"].values())) == (
        data["training"]["photos"],
        data["validation"]["photos"],
    )


@pytest.mark.parametrize("preset", CARDS)
def test_the_data_card_counts_the_photos_that_presets_are_scored_on(preset):
    card = (Path(presets.__file__).parent / "assets" / "DATA.md").read_text(encoding="utf-8")
    *_, (header, *rows) = tables(card)
    assert header[:4] == ["set", "photos", "near gray", "short side, px"]
    assert {row[0] for row in rows} == set(SETS) - {"val", "sample"}, "which the text names"
    for name, count, near_gray, side, *_ in rows:
        found = scored(preset, name)
        assert (len(found), sum(row["near_gray"] for row in found)) == (int(count), int(near_gray))
        assert all(row["n_pixels"] % int(side) == 0 for row in found)
        told = CARDS[preset]["about"]["evaluation"].partition(f"{name}: ")[2]
        assert re.search(r"short side (\d+) px", told)[1] == side


# What the notebooks say of the library


def test_the_page_on_training_says_how_large_the_map_of_colors_is():
    text = NOTEBOOKS["notebooks/02_training.ipynb"]
    stride, said = 4, r"short side of about (\d+) px .*? so its color map is about (\d+) px"
    side, small = re.search(said, text).groups()
    assert f"It stops at stride {stride}." in text
    assert {card["working_size"] for card in CARDS.values()} == {int(side)}
    assert int(small) == int(side) / stride


def test_the_page_on_data_says_what_decoding_anew_would_cost():
    """In percent of the cheapest and the dearest crop that was measured."""
    measured = (ROOT / "tests" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    found = {table[0][0]: table for table in tables(measured)}
    (crops,) = [table for head, table in found.items() if "training_speed.py" in head]
    seconds = [float(row[1]) for row in crops[1:]]
    *_, (photos, minutes, *_) = found["photos"]
    decoding = 60 * float(minutes) / int(photos.replace(",", ""))
    text = NOTEBOOKS["notebooks/01_data.ipynb"]
    (said,) = re.findall(r"would add (\d+) to (\d+) % to a training step", text)
    for shown, step in zip(said, (max(seconds), min(seconds)), strict=True):
        assert_rounded(shown, 100 * decoding / step)


@pytest.mark.parametrize("preset", CARDS)
def test_the_commands_of_a_card_begin_in_any_clone(preset):
    """The weights that a training began with are those of an earlier commit."""
    fetch, before, *_ = CARDS[preset]["about"]["commands"]
    assert fetch.startswith("git fetch --unshallow") and before.startswith("git worktree add")
    assert "`git fetch --unshallow`" in NOTEBOOKS["notebooks/02_training.ipynb"]
