"""What 05_verdicts computes, on pictures and scores whose colors, sizes and errors are known."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from colorlib import Colorizer, ColorlibError, lab, metrics, photos
from notebooks import verdicts

SHIPPED = verdicts.SHIPPED / "peers"


def scene():
    """A photo of like lightness: blue, with a green square of 4 % and a gray third."""
    ab = np.full((200, 300, 2), (0.0, -30.0), "float32")
    ab[:, 200:] = 2.0
    ab[40:89, 50:99] = (-30.0, 30.0)
    return lab.recombine(np.full((200, 300), 60, "float32"), ab)


def test_regions_are_areas_of_like_color_whatever_their_lightness():
    truth = scene()
    stripes = np.where(np.arange(200) % 50 < 25, 50, 62)[:, None].repeat(300, 1)
    grain = np.random.default_rng(0).normal(0, 1.5, (200, 300, 2))
    striped = lab.recombine(stripes.astype("float32"), metrics.ab_of(truth) + grain)
    for picture in (truth, striped):
        area = verdicts.area_of_regions(metrics.ab_of(picture))
        assert area[60, 70] == pytest.approx(0.04, abs=0.01)
        assert area[150, 20] == pytest.approx(0.627, abs=0.02)
        assert area[100, 250] == pytest.approx(1 / 3, abs=0.02)


def test_hues_have_the_names_that_people_give_them():
    names = list(verdicts.HUES)
    colors = {(0, 110, 30): 3, (90, 150, 220): 4, (200, 150, 120): 1, (240, 60, 120): 0}
    colors |= {(150, 80, 200): 5, (230, 210, 60): 2}
    for color, group in colors.items():
        ab = metrics.ab_of(np.full((1, 1, 3), color, np.uint8))
        assert verdicts.hue_group(ab)[0, 0] == group, (color, names[group])


def test_photos_without_color_have_no_regions_to_judge(tmp_path):
    path = tmp_path / "gray.png"
    Image.fromarray(np.full((64, 64), 128, np.uint8)).save(path)
    with pytest.raises(ColorlibError, match="all of 1 photos are near-gray"):
        verdicts.score_regions(Colorizer.from_preset("paper"), [path])


def test_sums_of_regions_make_the_whole_photo():
    truth = scene()
    output = lab.recombine(lab.lightness(truth), 0.5 * metrics.ab_of(truth).astype("float32"))
    gray = truth * 0 + 128
    table = verdicts.region_scores(output, {"gray": gray}, truth)
    whole = table[table["by"] == "chroma"]
    assert whole["n_pixels"].sum() == truth.shape[0] * truth.shape[1]
    mse = whole["ab_sse"].sum() / whole["n_pixels"].sum() / 2
    assert mse == pytest.approx(metrics.ab_mse(output, truth))
    floor = whole["gray"].sum() / whole["n_pixels"].sum() / 2
    assert floor == pytest.approx(metrics.ab_mse(gray, truth))
    colored = table[table["by"] == "hue and size"]
    green = colored[colored["group"] == "green: plants"].set_index("size")
    # A rim between two regions, where the small photo mixes them, may be a region of its own.
    assert green["n_pixels"].sum() == 49 * 49 and green["n_pixels"]["1 to 10 %"] > 0.75 * 49 * 49
    kept = green["chroma"] / green["truth_chroma"]
    assert list(kept) == pytest.approx([0.5] * len(kept), abs=0.02)
    assert colored["n_pixels"].sum() == pytest.approx(40_000, rel=0.01)  # without the gray third


@pytest.mark.slow
def test_draws_pool_photos_and_hold_the_model_against_the_better_floor(colorizers):
    paths = photos.packaged("sample")["path"].tolist()[:6]
    colorizer = colorizers("pyramid")
    scores = verdicts.score_regions(colorizer, paths)
    colored = scores[scores["by"] == "hue and size"]
    draws = verdicts.region_draws(colored, "size", n_bootstrap=200)
    assert sum(found["share"][0] for found in draws.values()) == pytest.approx(1)
    for size, found in draws.items():
        of = colored[colored["size"] == size][["ab_sse", "gray", "mean ab", "n_pixels"]].sum()
        rmse = np.sqrt(of / of["n_pixels"] / 2)
        floor = rmse[["gray", "mean ab"]].min()
        assert found["rmse"][0] == pytest.approx(rmse["ab_sse"])
        assert found["difference"][0] == pytest.approx(rmse["ab_sse"] / floor - 1)
        low, high = verdicts.interval(found["difference"])
        assert low < found["difference"][0] < high
    report = verdicts.regions_report(draws)
    assert set(report.index) == set(draws) and not report.isin(["nan"]).any(axis=None)


def test_the_classifier_sorts_photos_into_the_groups_of_their_classes():
    logits = np.zeros((5, 1000))
    for row, name in enumerate((281, 817, 963, 972, 985)):  # cat, sports car, pizza, cliff, daisy
        logits[row, name] = 1
    things = "things, clothes, buildings, vehicles"
    expected = ["animals", things, "food", "landscapes", "plants and fungi"]
    assert verdicts.categories(logits) == expected
    assert list(verdicts.CLASSES.values()) == sorted(verdicts.CLASSES.values())


def test_a_picture_of_regions_has_their_mean_colors():
    picture = metrics.ab_of(verdicts.regions_picture(scene()))
    assert picture.shape == (128, 192, 2)
    for place, color in {(100, 10): (0, -30), (45, 45): (-30, 30), (60, 170): (2, 2)}.items():
        assert picture[place] == pytest.approx(color, abs=2)


def compared(intervals):
    """What `verdicts.compare_on_sets` gives, with these differences in every metric."""
    rows = [
        {"set": name, "arm": arm, "metric": metric, "difference": d, "low": low, "high": high}
        for (name, arm), (low, d, high) in intervals.items()
        for metric in verdicts.DIFFERENCES
    ]
    return pd.DataFrame(rows).set_index(["set", "arm", "metric"])


def test_differences_of_arms_are_written_with_their_intervals():
    table = compared({("val", "none"): (0.1, 0.25, 0.4), ("kodak24", "none"): (-0.3, -0.1, 0.2)})
    report = verdicts.differences_report(table, ["none"])
    assert list(report.index) == [("none", "val"), ("none", "kodak24")]
    assert report.loc[("none", "val"), "pooled ab-RMSE"] == "+0.25 [+0.10, +0.40]"
    assert report.loc[("none", "kodak24"), "mean colorfulness"] == "-0.1 [-0.3, +0.2]"


def test_film_that_is_blind_to_red_is_scored_beside_the_other(colorizers):
    red = lab.recombine(np.full((64, 64), 50, "float32"), np.full((64, 64, 2), 40, "float32"))
    colorizer = colorizers("paper")
    scores = verdicts.film_scores(colorizer, [red])
    assert set(scores["film"]) == {"panchromatic", "orthochromatic"}
    model = scores[scores["method"] == "model"].set_index("film")
    for film, emulsion in (("panchromatic", ()), ("orthochromatic", ((0, 0.5, 0.5),))):
        output = colorizer.colorize(lab.gray(red, *emulsion))
        assert model.loc[film, "ab_sse"] == pytest.approx(
            ((metrics.ab_of(output) - 40) ** 2).sum(), rel=0.02
        )
    assert model["ab_sse"].nunique() == 2


def regions(kept, error):
    """Rows of 40 photos: what of the chroma is kept in small and large regions, and in all pixels,
    and the error over the floor's in large ones."""
    rng, rows = np.random.default_rng(1), []
    for photo in range(40):
        for hue in verdicts.NATURAL:
            for size, share in zip(("under 1 %", verdicts.LARGE), kept, strict=True):
                n, noise = 1000, rng.uniform(0.95, 1.05)
                row = {"by": "hue and size", "group": hue, "size": size, "file": str(photo)}
                row |= {"n_pixels": n, "truth_chroma": 30 * n, "chroma": 30 * n * share * noise}
                row |= {"gray": 900 * n, "mean ab": 800 * n, "ab_sse": 800 * n * error**2 * noise}
                row |= {"preset": "paper", "set": ("val", "kodak24")[photo % 2]}
                rows += [row, row | {"by": "chroma", "group": "16 to 32"}]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def films(colorizers):
    """What `metrics.compare` gives for two photos as two films would have recorded them."""
    scores = verdicts.film_scores(colorizers("paper"), [scene(), scene()[:, ::-1]])
    return metrics.compare(scores.assign(preset="paper"), ["preset", "film"], n_bootstrap=20)


def claims(table, colored, films, same=(True, True)):
    """`claims_report` of one preset, with two sizes: whether each came back as it was."""
    sizes = {"preset": "paper", "same size back": list(same), "colors move by": [0, 1.5]}
    sources = "reference run", "reference run and sample"
    return verdicts.claims_report(table, colored, pd.DataFrame(sizes), films, sources)


@pytest.mark.parametrize("as_claimed", [True, False])
def test_verdicts_follow_from_the_intervals(as_claimed, films):
    sign = 1 if as_claimed else -1
    table = compared(
        {(name, arm): (sign * 0.1, sign * 0.2, sign * 0.3) for name in ("val", "kodak24")
         for arm in ("none", "shuffled", "constant")}
    )  # fmt: skip
    colored = regions((0.3, 0.6) if as_claimed else (1.4, 1.2), 0.8 if as_claimed else 1.2)
    report = claims(table, colored, films, same=(True, as_claimed))
    found = report["verdict"].droplevel("network")
    people = ["About 46 % of the answers take the colors for real"]
    people += ["Historical photographs look plausible"]
    assert set(found[people]) == {"not tested here"}
    rest = found.drop(people)
    assert len(rest) == 6
    if as_claimed:
        assert set(rest) == {"holds"}
        number = report.loc["Small objects stay gray", "number"].iloc[0]
        assert number.startswith("kept 30 [30, 3") and "; in large regions 60 %, diff" in number
        assert number.endswith("; in each set by itself, 2 of 2 hold")
    else:
        sizes_claim = "Photos of any size and aspect ratio are colored"
        assert rest.pop(sizes_claim) == "holds and fails in part"
        assert set(rest) == {"does not hold"}


def test_one_set_alone_makes_a_claim_hold_in_part(films):
    table = compared({("val", "none"): (0.1, 0.2, 0.3), ("kodak24", "none"): (-0.1, 0.2, 0.3)})
    report = claims(table, regions((0.3, 0.6), 0.8), films)
    assert report.loc[("The fusion helps", "paper"), "verdict"] == "holds in part"


def test_what_an_interval_leaves_open_is_neither_shown_nor_refuted(films):
    table = compared({("val", "none"): (-0.1, 0.2, 0.3), ("kodak24", "none"): (-0.3, -0.2, 0.1)})
    report = claims(table, regions((0.6, 0.6), 1.0), films)["verdict"]
    assert report[("The fusion helps", "paper")] == "not shown"
    assert report[("Small objects stay gray", "paper")] == "not shown"


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [
        ((0.3, 0.6), "holds"),
        ((0.7, 0.9), "holds"),
        ((0.3, 0.3), "not shown"),  # all regions are pale, whatever their size
        ((0.4, 0.3), "does not hold"),
    ],
)
def test_small_objects_are_held_against_large_ones(kept, verdict, films):
    table = compared({("val", "none"): (0.1, 0.2, 0.3)})
    report = claims(table, regions(kept, 1.0), films)
    assert report.loc[("Small objects stay gray", "paper"), "verdict"] == verdict


def test_a_claim_on_regions_is_judged_in_each_set(films):
    """All photos in one heap would say that it holds."""
    table = regions((0.3, 0.6), 0.8)
    few = (table["set"] == "kodak24") & (table["group"] == list(verdicts.NATURAL)[1])
    table.loc[few, "ab_sse"] = 800 * 1000 * 1.05**2
    report = claims(compared({("val", "none"): (0.1, 0.2, 0.3)}), table, films)
    (row,) = [row for (claim, _), row in report.iterrows() if claim.startswith("Large natural")]
    assert row["verdict"] == "holds and fails in part"
    assert row["number"].endswith("in each set by itself, 5 of 6 hold, 1 the contrary")


def test_an_embedding_helps_by_what_it_says_only_where_it_helps(films):
    worse, open_, better = (0.1, 0.2, 0.3), (-0.1, 0.1, 0.3), (-0.3, -0.2, -0.1)
    claim = "It helps because the embedding says what the photo shows"
    for none, constant, verdict in (
        (worse, worse, "holds"),
        (open_, worse, "not shown"),
        (worse, better, "does not hold"),
    ):
        arms = {"none": none, "shuffled": worse, "constant": constant}
        table = compared({("val", arm): interval for arm, interval in arms.items()})
        report = claims(table, regions((0.3, 0.6), 0.8), films)
        assert report.loc[(claim, "paper"), "verdict"] == verdict


def test_a_verdict_says_whose_scores_it_comes_from(films):
    table, sizes = compared({("val", "none"): (0.1, 0.2, 0.3)}), pd.DataFrame({"preset": []})
    sources = "your scores", "reference run and sample"
    told = verdicts.claims_report(table, regions((0.3, 0.6), 0.8), sizes, films, sources)["from"]
    assert told[("The fusion helps", "paper")] == sources[0]
    assert told[("Small objects stay gray", "paper")] == sources[1]


def test_a_claim_that_fails_on_one_set_alone_fails_in_part(films):
    table = compared({("val", "none"): (-0.3, -0.2, -0.1), ("kodak24", "none"): (-0.1, 0.1, 0.3)})
    report = claims(table, regions((0.3, 0.6), 0.8), films)
    assert report.loc[("The fusion helps", "paper"), "verdict"] == "fails in part"


@pytest.fixture(scope="module")
def shipped_arms():
    """The arms that ship, on each set, in the pooled error."""
    trainings = pd.read_parquet(verdicts.SHIPPED / "ablation.parquet")
    return verdicts.compare_on_sets(trainings, "own").xs("ab_rmse", level="metric")


def test_the_fusion_is_settled_on_the_sets_that_the_readme_says(shipped_arms):
    """Of val and imagenet475 it says by how much it helps, of the others that it is open."""
    trainings = pd.read_parquet(verdicts.SHIPPED / "ablation.parquet")
    settings = json.loads((verdicts.SHIPPED / "ablation.json").read_text(encoding="utf-8"))
    scored = trainings.groupby(["set", "arm", "seed"], observed=True).size()
    assert settings["sets"] == scored.groupby("set", observed=True).max().to_dict()
    assert (scored == scored.index.get_level_values("set").map(settings["sets"])).all()
    for name, row in shipped_arms.xs("none", level="arm").iterrows():
        settled = name in ("val", "imagenet475")
        assert (row["low"] > 0) == settled and row["high"] > 0, name


def test_what_pyramid_adds_shows_on_the_sets_that_the_notebook_says(shipped_arms):
    """Only with the paper's loss, and on the two large sets; no arm without it shows a gain."""
    assert set(shipped_arms.index.unique("set")) == {"imagenet475", "val", "sample", "kodak24"}
    for name, rows in shipped_arms.groupby("set"):
        rows = rows.droplevel("set")
        assert (rows.loc["mse", "high"] < 0) == (name in ("imagenet475", "val")), name
        assert (rows.loc[["bins", "pyramid", "scratch"], "high"] > 0).all(), name
        assert (rows.loc[["bins", "pyramid"], "low"] < 0).all(), name
        assert (rows["seeds"] == 3).all(), name


def test_paler_is_judged_over_all_pixels(films):
    """Pixels that are colored in truth look paler in any colors that err."""
    table = regions((0.5, 0.5), 1.0)
    everywhere = table["by"] == "chroma"
    table.loc[everywhere, "chroma"] = 1.2 * table.loc[everywhere, "truth_chroma"]
    found = claims(compared({("val", "none"): (0.1, 0.2, 0.3)}), table, films)["verdict"]
    assert found[("Colors are paler than the true ones", "paper")] == "does not hold"


def test_what_photos_do_not_hold_is_not_tested(films):
    table = regions((0.5, 0.5), 1.0)
    table = table[(table["size"] != verdicts.LARGE) | (table["by"] == "chroma")]
    report = claims(compared({("val", "none"): (0.1, 0.2, 0.3)}), table, films)
    for claim in (
        "Small objects stay gray",
        "Large natural areas",
    ):
        (row,) = [row for (name, _), row in report.iterrows() if name.startswith(claim)]
        assert row["verdict"] == "not tested here" and row["number"] == ""


def peers(errors):
    """Scores of networks on two sets, whose pixels are off by so much in a and b."""
    rows = [
        {"network": network, "set": name, "file": f"{number}.jpg", "near_gray": False}
        | {"n_pixels": 100, "ab_sse": 2 * 100 * error**2, "ab_psnr": 20.0, "auc_sum": 90.0}
        | {"colorfulness": 10.0, "truth_colorfulness": 40.0}
        for name in ("first", "second")
        for network, error in errors.items()
        for number in range(3)
    ]
    return pd.DataFrame(rows)


def test_networks_stand_in_the_order_of_their_error_with_the_floors_among_them():
    table = verdicts.peers_report(peers({"worse": 16.0, "gray": 14.5, "better": 12.25}))
    order = ["better", "gray", "worse", "the originals"]
    assert list(table.index) == [(name, who) for name in ("first", "second") for who in order]
    first = table.loc["first"]
    assert first.loc["better", "pooled ab-RMSE"] == "12.25 [12.25, 12.25]"
    assert first.loc["worse", "AuC"] == "0.9000 [0.9000, 0.9000]"
    assert list(first.loc["the originals"]) == ["", "", "", "40.0"]


def test_costs_are_those_of_networks_with_scores(tmp_path):
    for name, parameters in {"large": 9_000_000, "small": 1_000_000, "untrained": 5}.items():
        numbers = dict.fromkeys((name for _, name, _ in verdicts.COSTS.values()), 2.0)
        numbers |= {"parameters": parameters, "multiply_adds": 1.25e9}
        (tmp_path / f"{name}.json").write_text(json.dumps(numbers))
    for name in ("large", "small", "floors"):
        peers({name: 1.0}).to_parquet(tmp_path / f"{name}.parquet")
    report = verdicts.costs_report(verdicts.peer_costs(tmp_path))
    label = "parameters, millions"
    assert list(report[label].items()) == [("small", "1.0"), ("large", "9.0")]
    assert report.loc["small", "multiply-adds at 224 px, billions"] == "1.25"


def test_the_networks_that_ship_had_the_same_minutes_on_one_processor():
    settings = json.loads((SHIPPED / "settings.json").read_text())
    costs = verdicts.peer_costs(SHIPPED)
    assert costs["processor"].nunique() == 1
    step = costs["step_seconds"] * 6 / 60  # minutes
    assert (abs(costs["minutes"] - settings["minutes"]) <= step / 2 + 1e-6).all()
    assert (costs["crops"] == 6 * settings["batch"] * costs["steps"]).all()
    assert costs["learning_rate"].isin(settings["rates"]).all()
    few = costs.index[costs["crops"] < settings["photos"]]
    assert set(few) == {"zhang2016", "iizuka2016"}, "05_verdicts says so"
    largest = costs["parameters"].nlargest(3).index
    for name in costs.index:
        maps = np.load(SHIPPED / f"{name}.npz")
        ab = np.concatenate([maps[file].reshape(-1, 2) for file in maps]).astype("float64")
        assert (np.sqrt(ab.var(axis=0).sum()) < 3) == (name in largest), "05_verdicts says so"
    scores = verdicts.peer_scores(SHIPPED)
    for name, photo_count in settings["sets"].items():
        counts = scores[scores["set"] == name]["network"].value_counts()
        assert set(counts.index) == {*costs.index, "gray", "mean ab"}
        assert (counts == photo_count).all()


def test_scores_of_ones_own_stand_before_those_that_ship(tmp_path):
    shipped = verdicts.find_scores()
    assert all(path.exists() for path in shipped.values())
    with pytest.raises(ColorlibError, match="holds none of ablation.parquet"):
        verdicts.find_scores(tmp_path)
    own = tmp_path / "regions.parquet"
    own.touch()
    assert verdicts.find_scores(tmp_path) == shipped | {"regions.parquet": own}


def test_arms_without_the_one_they_are_compared_with_are_told_so():
    trainings = pd.read_parquet(verdicts.SHIPPED / "ablation.parquet")
    some = trainings[trainings["arm"].isin(["bins", "none"])]
    with pytest.raises(ColorlibError, match="SCORES holds bins, none, but not own, with which"):
        verdicts.compare_on_sets(some, "own")


@pytest.mark.parametrize("baseline", ["paper", "mean ab"])
def test_peers_are_shown_on_sets_of_ones_own(tmp_path, baseline):
    """05_verdicts with SCORES: networks, `paper` or none, scored elsewhere than the ablation's."""
    for path in SHIPPED.glob("*.parquet"):
        if path.stem == "paper" != baseline:
            continue
        scores = pd.read_parquet(path)
        mine = scores["set"].map({"sample": "sample", "kodak24": "mine"})
        scores.assign(set=mine).dropna(subset="set").to_parquet(tmp_path / path.name)
        if (costs := path.with_suffix(".json")).exists():
            shutil.copy(costs, tmp_path)
    notebook = json.loads((verdicts.SHIPPED.parent / "05_verdicts.ipynb").read_text("utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    (cell,) = [source for source in sources if "verdicts.peers_report(" in source]
    cell, last = cell.rsplit("\n", 1)
    told, given = [], {"pd": pd, "metrics": metrics, "verdicts": verdicts, "SEED": 1}
    given |= {"peers": verdicts.peer_scores(tmp_path), "found": {"peers": tmp_path}}
    given |= {"costs": verdicts.peer_costs(tmp_path)}
    exec(cell, given | {"forest": lambda *told_: told.append(told_)})
    (against, networks, _, _, compared_with, _) = told[0]
    assert compared_with == baseline and baseline not in networks
    assert set(against.index.get_level_values("set")) == {"sample", "mine"}
    assert {"gray", "mean ab", "pyramid"} - {baseline} <= set(networks)
    table = eval(last, given)
    assert set(table.index.get_level_values("set")) == {"sample", "mine"}
