"""The statistics of the study, held to published answers, to R's lme4 and to simulated studies.

tests/study_reference/answers.csv holds simulated people: `simulate(40, 24, Population({"A": 0.46,
"B": 0.55}), seed=2017)` of study.simulation, without every twentieth answer. fit.R beside it makes
fit.csv.
"""

import base64
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from scipy import special, stats

from colorlib import ColorlibError
from notebooks import run
from notebooks.figures import ROOT, read_manifest
from study import analysis, coverage, figures, mixed, protocol, published, simulation

REFERENCE = Path(__file__).parent / "study_reference"
NAN = float("nan")


# Single rates


@pytest.mark.parametrize(
    "successes, answers, low, high",
    [(47, 60, 0.6638, 0.8688), (31, 59, 0.4004, 0.6473), (0, 60, 0, 0.0602)],
)
def test_wilson_as_published(successes, answers, low, high):
    assert np.allclose(analysis.wilson(successes, answers), (low, high), atol=5e-5)
    # "Fake" is as good an answer as "real".
    mirrored = analysis.wilson(answers - successes, answers)
    assert np.allclose(mirrored, (1 - high, 1 - low), atol=5e-5)


def test_wilson_of_no_answers_is_missing_and_of_too_many_an_error():
    low, high = analysis.wilson([0, 1], [0, 2])
    assert np.isnan(low[0]) and np.isnan(high[0]) and not np.isnan(low[1])
    with pytest.raises(ColorlibError, match="between 0 and the number"):
        analysis.wilson(61, 60)


def test_d_prime_as_in_textbooks():
    d, criterion = analysis.d_prime(0.8, 1, 0.2, 1, correct=False)
    assert d == pytest.approx(1.6832, abs=5e-5) and criterion == pytest.approx(0, abs=1e-9)
    assert analysis.d_prime_2afc(0.76, 1, correct=False) == pytest.approx(0.9989, abs=5e-5)
    # Log-linear by hand: 20.5 / 21 and 0.5 / 21.
    d, criterion = analysis.d_prime(20, 20, 0, 20)
    assert d == pytest.approx(2 * stats.norm.ppf(20.5 / 21))
    assert criterion == pytest.approx(0, abs=1e-9)
    # 2AFC by hand: 20.5 of 21.
    assert analysis.d_prime_2afc(20, 20) == pytest.approx(np.sqrt(2) * stats.norm.ppf(20.5 / 21))
    # Who calls everything real can't tell anything and leans to "real".
    d, criterion = analysis.d_prime(0, 20, 0, 20)
    assert d == 0 and criterion > 1.5


@pytest.mark.parametrize("count", [6, 20])
def test_d_prime_intervals_hold_what_they_promise(count):
    hits, alarms = np.mgrid[: count + 1, : count + 1]
    low, high = analysis.d_prime_interval(hits, count, alarms, count)
    for d, criterion in itertools.product((0, 0.5, 1, 1.5, 2, 2.5), (0, 0.4)):
        rates = stats.norm.cdf([d / 2 - criterion, -d / 2 - criterion])
        chance = stats.binom.pmf(hits, count, rates[0]) * stats.binom.pmf(alarms, count, rates[1])
        assert 0.95 < chance[(low <= d) & (d <= high)].sum() < 0.975


def test_the_page_computes_as_the_analysis(browser):
    script = base64.b64encode((ROOT / "notebooks/site/static/dprime.js").read_bytes()).decode()
    grid = [(h, s, f, n) for s, n in [(6, 6), (9, 3)] for h in range(s + 1) for f in range(n + 1)]
    grid += [(0, 1000, 1000, 1000), (500, 1000, 1, 2)]
    page = browser.new_page()
    found = page.evaluate(
        """async ([script, grid]) => {
            const { dPrime, wilson } = await import(`data:text/javascript;base64,${script}`);
            return grid.map((one) => {
                const { value, low, high } = dPrime(...one), share = wilson(one[0], one[1]);
                return [value, low, high, share.low, share.high];
            });
        }""",
        [script, grid],
    )
    page.close()
    columns = np.transpose(grid)
    expected = [analysis.d_prime(*columns)[0], *analysis.d_prime_interval(*columns)]
    expected += analysis.wilson(*columns[:2])
    assert np.allclose(found, np.transpose(expected), rtol=0, atol=1e-9)


# What was published


def test_published_tables():
    percent, counts = published.load()
    first = percent["percent_said_real"]
    assert (first.mean(), first.std()) == (
        pytest.approx(45.867, abs=5e-4),
        pytest.approx(22.37, abs=5e-3),
    )
    colored = counts[counts["method"] == "colored"]
    as_published = 100 * colored["said_real"] / 60
    assert as_published.mean() == pytest.approx(48.519, abs=5e-4)
    assert as_published.std() == pytest.approx(17.087, abs=5e-4)
    # One answer about photo 4406 is missing; it is not a "fake".
    table = published.acceptance()
    assert table.loc["2022, colored", "answers"] == 539
    assert table.loc["2022, colored", "mean"] == pytest.approx(48.616, abs=5e-4)


def test_published_comparison_is_of_photos_and_not_of_people():
    table = published.comparison()
    assert table.loc["photos", "p"] == pytest.approx(0.78, abs=5e-3)
    # The p-value of the report, 0.493, needs the numbers of people.
    assert table["p"].iloc[1] == pytest.approx(0.493, abs=0.01)
    assert table.loc["photos", "high"] - table.loc["photos", "low"] > 35  # points
    assert table["difference"].round(3).eq(2.652).all()


# Agreement, several tests, ranking


def test_krippendorff_alpha_as_in_his_examples():
    """Krippendorff 2011, Computing Krippendorff's alpha-reliability, examples A and C."""
    two = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    assert analysis.krippendorff_alpha(two) == pytest.approx(0.095, abs=5e-4)
    four = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
    assert analysis.krippendorff_alpha(four) == pytest.approx(0.743, abs=5e-4)
    assert analysis.krippendorff_alpha([[0, 1], [0, 1]]) == 1
    assert np.isnan(analysis.krippendorff_alpha([[1, 1], [1, 1]]))


def test_holm_by_hand():
    assert analysis.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert analysis.holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_ranking_draws_few_answers_to_the_mean():
    counts = pd.DataFrame(
        {"answers": [4, 400, 60, 60, 60, 60], "said_real": [4, 360, 20, 30, 40, 25]}
    )
    ranking = analysis.rank_photos(counts)
    few, many = (ranking[ranking["answers"] == n].iloc[0] for n in (4, 400))
    assert many["shrunk"] == pytest.approx(0.9, abs=0.02)
    assert few["shrunk"] < many["shrunk"]  # 4 of 4 is less sure than 360 of 400
    assert few["rank_high"] - few["rank_low"] > many["rank_high"] - many["rank_low"]
    assert list(ranking["rank"]) == [1, 2, 3, 4, 5, 6]
    assert (
        (ranking["rank_low"] <= ranking["rank"]) & (ranking["rank"] <= ranking["rank_high"])
    ).all()
    assert ranking.equals(analysis.rank_photos(counts))  # the seed
    alike = pd.DataFrame({"answers": [60] * 5, "said_real": [30] * 5})
    assert np.allclose(analysis.rank_photos(alike)["shrunk"], 0.5, atol=1e-3)


@pytest.mark.slow
def test_ranking_intervals_hold_with_few_answers():
    """Empirical Bayes held 68 % with 10 answers; 60 studies know a coverage to 3 points."""
    for photos, answers in ((12, 10), (9, 60), (9, 10)):
        table = coverage.rank_coverage(photos, answers, studies=60, seed=2).set_index("interval")
        for people in ("same people", "other people"):
            assert 0.91 <= table.loc[f"shrunk, {people}", "coverage"] <= 0.985
            assert table.loc[f"rank, {people}", "coverage"] >= 0.94


def test_ranking_posterior_is_the_integral():
    """By plain summation over rates for each pair of mean and spread, on a grid of another step."""
    k, n = np.array([1.0, 4, 5, 9]), np.array([10.0, 10, 8, 10])
    rates, means = np.linspace(-8, 8, 401), np.linspace(-5, 5, 81)
    spreads = np.linspace(0.02, 3.5, 120)
    like = stats.binom.pmf(k[:, None], n[:, None], 1 / (1 + np.exp(-rates)))
    prior = stats.norm.pdf(rates, means[:, None, None], np.maximum(spreads, 0.03)[:, None])
    prior /= prior.sum(axis=-1, keepdims=True)
    evidence = np.einsum("msr,pr->msp", prior, like)
    weights = stats.norm.pdf(means, 0, 1.5)[:, None] * stats.halfnorm.pdf(spreads)
    weights = weights * evidence.prod(axis=-1)
    expected = [
        (weights * np.einsum("msr,r->ms", prior, one / (1 + np.exp(-rates))) / part).sum()
        / weights.sum()
        for one, part in zip(like, np.moveaxis(evidence, -1, 0), strict=True)
    ]
    counts = pd.DataFrame({"answers": n, "said_real": k, "photo": range(4)})
    found = analysis.rank_photos(counts, people_sd=0).set_index("photo")["shrunk"]
    assert np.allclose(found.loc[range(4)], expected, rtol=0, atol=2e-3)


# Intervals over people and photos


def crossed(people=30, photos=10, seed=3):
    """Everybody about every photo: person, photo, said (people, photos)."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 0.9, (people, 1)) + rng.normal(0, 0.9, photos)
    said = (rng.random((people, photos)) < 1 / (1 + np.exp(-logit))).astype(float)
    person, photo = np.indices(said.shape)
    return person, photo, said


def test_rate_is_what_variances_of_means_give():
    person, photo, said = crossed()
    found = analysis.rate(said.ravel(), person.ravel(), photo.ravel())
    variance = (
        said.mean(1).var(ddof=1) / 30 + said.mean(0).var(ddof=1) / 10 - said.var(ddof=1) / 300
    )
    assert found.value == pytest.approx(said.mean())
    assert found.error == pytest.approx(np.sqrt(variance))
    assert found.df == 9
    # Equal arms on the logit, where the error is that of the rate over p (1 - p).
    p, half = found.value, stats.t.ppf(0.975, 9) * found.error
    arms = np.diff(special.logit([found.low, p, found.high]))
    assert arms == pytest.approx(half / (p * (1 - p)))


def test_intervals_near_0_miss_on_either_side():
    """With equal arms, the truth lay above 9 % of the intervals and below none."""
    rare = simulation.Population({"A": 0.05}, original=0.8)
    table = coverage.coverage(41, 12, 6, studies=200, seed=3, population=rare)
    row = table.set_index("interval").loc["one rate, people and photos"]
    assert 0.91 <= row["coverage"] <= 0.99 and row["above"] <= 0.05


def test_difference_of_rates_near_the_middle_is_students():
    person, photo = (index.ravel() for index in np.indices((60, 40)))
    said = np.random.default_rng(4).random(2400) < np.where(photo < 20, 0.45, 0.55)
    found = analysis.difference(said, person, photo, photo < 20)
    half = stats.t.ppf(0.975, found.df) * found.error
    assert found.value - found.low == pytest.approx(half, rel=0.02)
    assert found.high - found.value == pytest.approx(half, rel=0.02)


def test_difference_without_any_spread_has_an_interval():
    """Everybody calls every colored photo fake and every original real."""
    person, photo = (index.ravel() for index in np.indices((30, 12)))
    found = analysis.difference(photo >= 6, person, photo, photo < 6)
    assert found.value == -1 == found.low and found.high < -0.4


@pytest.mark.parametrize("colored", [5, 7])
def test_difference_over_photos_is_welchs(colored):
    """With people who do not differ, it comes to Welch's t-test of the photos' means."""
    person, photo, said = crossed(people=30, photos=10)
    said = np.sort(said, axis=0)  # everybody's share is taken apart: people are no cluster any more
    mine = (photo < colored).ravel()
    found = analysis.two_way(said.ravel(), person.ravel(), photo.ravel(), mine)
    means = said.mean(0)
    welch = stats.ttest_ind(means[:colored], means[colored:], equal_var=False)
    assert found.df_photos == pytest.approx(welch.df)
    assert found.parts[1] == pytest.approx((found.value / welch.statistic) ** 2)
    assert found.df == min(found.df_photos, 29)


def test_labels_and_order_of_rows_do_not_matter():
    person, photo, said = (array.ravel() for array in crossed())
    mine = photo < 5
    plain = analysis.difference(said, person, photo, mine)
    order = np.random.default_rng(1).permutation(len(said))
    names = np.array([f"p{number}" for number in person])
    other = analysis.difference(said[order], names[order], photo[order] + 100, mine[order])
    assert np.allclose(plain, other)


def test_variance_is_never_less_than_one_way_gives():
    """A chessboard: neither people nor photos differ, and the three terms come to less than 0."""
    person, photo = (index.ravel() for index in np.indices((10, 8)))
    said = ((person + photo) % 2).astype(float)
    found = analysis.two_way(said, person, photo)
    people, photos, single = found.parts
    assert people + photos - single < 0 <= found.variance
    interval = analysis.rate(said, person, photo)
    assert 0 < interval.low < 0.5 < interval.high < 1


def test_unanimous_answers_have_an_interval():
    person, photo = (index.ravel() for index in np.indices((30, 12)))
    found = analysis.rate(np.zeros(360), person, photo)
    assert np.allclose((found.low, found.high), analysis.wilson(0, 12))


def test_a_single_person_or_photo_is_an_error():
    with pytest.raises(ColorlibError, match="two people or more.*there is one"):
        analysis.rate([0, 1, 1], [1, 1, 1], [1, 2, 3])
    with pytest.raises(ColorlibError, match="two photos or more of each version"):
        analysis.difference([0, 1, 1, 0], [1, 2, 1, 2], [1, 1, 2, 3], [True, True, False, False])


def test_missing_answers_are_left_out():
    answers = simulation.simulate(people=12, scenes=12).answers()
    holes = answers.assign(said_real=answers["said_real"].mask(answers.index % 7 == 0))
    table, without = (
        analysis.acceptance(holes),
        analysis.acceptance(holes.dropna(subset="said_real")),
    )
    assert table.equals(without)
    assert table["answers"].sum() < len(answers)


# 200 studies know a coverage to 3 points; tests/benchmarks/study_coverage.py takes 2,000.
@pytest.mark.parametrize("people, photos, colored", [(41, 12, 6), (60, 24, 12), (60, 24, None)])
def test_intervals_hold(people, photos, colored):
    table = coverage.coverage(people, photos, colored, studies=200, seed=5)
    held = table.set_index("interval")["coverage"]
    assert np.allclose(table["coverage"] + table["below"] + table["above"], 1)
    assert 0.91 <= held["one rate, people and photos"] <= 0.99
    assert 0.91 <= held["difference, Welch"] <= 0.99
    assert held["one rate, naive"] < 0.8  # what the other intervals are for


# The mixed model


@pytest.mark.parametrize("model", ["whole", "plain"])
def test_mixed_model_agrees_with_lme4(model):
    answers = pd.read_csv(REFERENCE / "answers.csv")
    if model == "plain":  # versions of a scene as strangers
        answers["scene"] = answers["stimulus"]
    fit = analysis.mixed_model(answers, slopes=model == "whole")
    reference = pd.read_csv(REFERENCE / "fit.csv", comment="#")
    reference = reference[reference["model"] == model].set_index("what")
    expected = reference.loc[["(Intercept)", "A", "B"]]
    assert list(fit.fixed.index) == ["original", "A", "B"]
    assert np.allclose(fit.fixed["estimate"], expected["value"], rtol=0, atol=1e-3)
    assert np.allclose(fit.fixed["error"], expected["given_sds"], rtol=0, atol=1e-3)
    assert np.allclose(fit.fixed["error"], expected["error"], rtol=0.04)  # of R's summary
    names = {"people": "participant", "scenes": "scene", "stimuli": "stimulus"}
    for row in fit.spreads.itertuples():
        effect = "" if row.effect == "all photos" else f" {row.effect}"
        known = reference.loc[f"sd {names[row.of]}{effect}", "value"]
        assert row.sd == pytest.approx(known, abs=1e-3)
    assert len(fit.spreads) == {"whole": 5, "plain": 2}[model]
    assert fit.log_likelihood == pytest.approx(reference.loc["logLik", "value"], abs=1e-2)
    assert fit.converged and fit.singular == (model == "whole")  # lme4 says so too
    people = "(method | participant) + (1 | scene)" if model == "whole" else "(1 | participant)"
    assert fit.formula == f"said_real ~ method + {people} + (1 | stimulus)"
    assert fit.told == (
        "" if model == "whole" else "every scene has one version, so scenes are left out"
    )


def test_mixed_model_tells_its_fallback(monkeypatch):
    answers = simulation.simulate(people=12, scenes=12).answers()
    fit_of = mixed._fit

    def fails(formula, data):
        return None if "method_1 |" in formula else fit_of(formula, data)

    monkeypatch.setattr(mixed, "_fit", fails)
    fit = analysis.mixed_model(answers)
    assert "people have no slopes of the method" in fit.told and "converge" in fit.told
    assert fit.formula == "said_real ~ method + (1 | participant) + (1 | scene) + (1 | stimulus)"
    monkeypatch.setattr(mixed, "_fit", lambda formula, data: None)
    with pytest.raises(ColorlibError, match="mixed model: could not be fitted"):
        analysis.mixed_model(answers)


def test_slopes_widen_the_interval_where_people_differ_in_sensitivity():
    """Without them it took people's own sensitivities for chance."""
    differ = simulation.Population(people_sd=1.2, people_agreement=0.0)
    answers = simulation.simulate(40, 40, differ, seed=4).answers()
    whole, plain = analysis.mixed_model(answers), analysis.mixed_model(answers, slopes=False)
    widths = [fit.fixed["high"].iloc[1] - fit.fixed["low"].iloc[1] for fit in (whole, plain)]
    assert widths[0] > 1.2 * widths[1]


# Simulated people, power


def test_simulated_people_are_called_so_and_answer_as_told():
    population = simulation.Population({"A": 0.4, "B": 0.6}, original=0.75)
    study = simulation.simulate(people=300, scenes=150, population=population)
    assert (
        "simulated" in study.source
        and study.participants["participant"].str.startswith("simul").all()
    )
    share = analysis.acceptance(study.answers())["share"]
    assert share["A"] == pytest.approx(0.4, abs=0.05)
    assert share["B"] == pytest.approx(0.6, abs=0.05)
    assert share["original"] == pytest.approx(0.75, abs=0.05)
    seen = study.answers().groupby(["participant", "scene"]).size()
    assert (seen == 1).all()  # each scene in one version
    again = simulation.simulate(people=300, scenes=150, population=population)
    assert study.trials.equals(again.trials)


@pytest.mark.parametrize(
    "field, value", [("original", 1.0), ("people_sd", -1), ("scene_agreement", 2)]
)
def test_impossible_populations_are_errors(field, value):
    with pytest.raises(ColorlibError, match=f"{field}: must be"):
        simulation.Population(**{field: value})


def test_power_grows_with_people_and_photos():
    table = simulation.power(people=(10, 40), photos=(8, 32), studies=20)
    width = table.set_index(["photos", "people"])["difference_width"]
    assert width[8, 10] > width[8, 40] > width[32, 40]
    plan = simulation.plan(width[32, 40] + 1e-9, table).set_index("photos")
    assert plan["people_for_difference"][32] == 40 and pd.isna(plan["people_for_difference"][8])
    with pytest.raises(ColorlibError, match="above 0"):
        simulation.plan(0, table)


def test_two_photos_to_choose_from():
    population = simulation.Population({"A": 0.32})
    study = simulation.simulate(80, 40, population, mode="2afc")
    table = analysis.forced_choice(study.answers())
    (row,) = table.itertuples()
    assert row.low < 0.32 < row.high
    right = (1 - row.fooled) * row.answers
    assert row.d_prime == pytest.approx(analysis.d_prime_2afc(right, row.answers))
    assert row.d_low < row.d_prime < row.d_high


def test_two_photos_that_nobody_takes_for_each_other():
    """d' was infinite."""
    study = simulation.simulate(10, 8, mode="2afc")
    answers = study.answers().assign(correct=1.0)
    (row,) = analysis.forced_choice(answers).itertuples()
    assert row.fooled == 0 and row.d_prime == pytest.approx(np.sqrt(2) * stats.norm.ppf(80.5 / 81))
    assert 0 < row.d_low < row.d_prime == row.d_high < 5


# Who took part


def test_sample_keeps_no_reply_apart_from_not_asked():
    study = simulation.simulate(people=40, scenes=8, seed=3)
    people = study.participants.copy()
    people.loc[:3, "complete"], people.loc[:5, "question_age"] = 0.0, None
    people.loc[6:, "question_age"] = "18-29"
    study = analysis.Study(study.trials, people, study.images, study.source, study.mode)
    study = analysis.flag_exclusions(study, protocol.load("balanced-yesno"))
    table = analysis.sample(study)
    age = table.loc["age"]
    assert list(age.index) == ["18-29", "rather not say", "not asked"]
    assert list(age["people"]) == [34, 2, 4] and age.loc["not asked", "counted"] == 0
    assert age["share"].sum() == pytest.approx(1)
    devices = table.loc["device"]
    assert set(devices.index) == {"window of a phone", "larger window"}
    assert devices["people"].sum() == 40
    assert {"photography", "known", "color vision"} < set(table.index.get_level_values(0))


@pytest.mark.parametrize("mode", ["yesno", "2afc"])
def test_who_knew_a_photo_can_be_left_out(mode):
    study = simulation.simulate(people=60, scenes=20, mode=mode, seed=5)
    knew = study.participants["question_known"] == "some"
    their = study.trials["participant"].isin(study.participants.loc[knew, "participant"])
    trials = study.trials.copy()  # they are always right
    truth = (trials["version"] == "original").astype(float)
    trials.loc[their, "said_real"] = truth[their]
    trials.loc[their, "correct"] = 1.0
    study = analysis.Study(trials, study.participants, study.images, study.source, mode)
    table = analysis.without_known(study).droplevel("method")
    assert list(table["people"]) == [
        60,
        60 - knew.sum(),
        (study.participants["question_known"] == "none").sum(),
    ]
    everybody, without, only = table["value"]
    assert everybody < without  # the answers of those who knew made colored photos look worse
    assert table["low"].le(table["value"]).all() and table["value"].le(table["high"]).all()
    unasked = study.participants.drop(columns="question_known")
    bare = analysis.Study(trials, unasked, study.images, study.source, mode)
    with pytest.raises(ColorlibError, match="has no question `known`"):
        analysis.without_known(bare)


def test_figures_show_photos_by_thumbnails_and_never_by_hashes():
    single = analysis.per_photo(simulation.simulate(10, 8).answers())
    hashes = [f"a{number:015x}" for number in range(len(single))]
    single["stimulus"] = hashes
    pictures = {name: np.zeros((64, 96, 3), np.uint8) for name in hashes}
    ranking = analysis.rank_photos(single)
    for draw, table in ((figures.photos_figure, single), (figures.ranking_figure, ranking)):
        plain, shown = draw(table, "a test"), draw(table, "a test", thumbnails=pictures)
        labels = [label.get_text() for label in plain.axes[0].get_yticklabels()]
        assert sorted(labels) == sorted(table["scene"])
        boxes = [artist for artist in shown.axes[0].artists if hasattr(artist, "offsetbox")]
        assert len(boxes) == len(table)


# Exclusions


@pytest.fixture(scope="module")
def study():
    return simulation.simulate(people=20, scenes=12, careless=0.2)


def test_exclusions_are_flags_by_the_protocol(study):
    rules = protocol.load("balanced-yesno")
    people = study.participants.assign(repeat=0.0)
    people.loc[3, "complete"], people.loc[4, "repeat"] = 0.0, 1.0
    trials = study.trials.copy()
    trials.loc[trials["participant"] == people["participant"][5], ["answer", "said_real"]] = (
        "real",
        1.0,
    )
    slow = trials.index[
        (trials["participant"] == people["participant"][6]) & (trials["kind"] == "main")
    ][0]
    trials.loc[slow, "response_ms"] = rules.exclusions.max_response_ms + 1
    before = analysis.Study(trials, people, study.images, study.source, "yesno")
    after = analysis.flag_exclusions(before, rules)
    assert after.trials[trials.columns].equals(trials)  # nothing is changed or lost
    flags = after.participants
    assert list(np.flatnonzero(flags["excluded_incomplete"])) == [3]
    assert list(np.flatnonzero(flags["excluded_repeat"])) == [4]
    assert flags["excluded_same"][5]
    assert flags["excluded_fast"].sum() == 4  # the careless ones
    assert after.trials.loc[slow, "excluded_response"]
    out = flags.filter(like="excluded_").any(axis=1)
    kept = after.answers()
    assert set(kept["participant"]) == set(flags.loc[~out, "participant"])
    counted = kept["participant"].value_counts()
    assert counted[people["participant"][6]] == 11 and counted.max() == 12
    table = analysis.exclusion_table(after)
    assert table.loc["any", "people"] == out.sum() and table.loc["of", "people"] == 20


def test_whoever_stops_is_incomplete_and_not_careless(study):
    """Somebody with one quick answer was flagged by five rules, and so counted in the tables."""
    rules = protocol.load("balanced-yesno")
    before = analysis.flag_exclusions(study, rules)
    careful = before.participants.index[~before.participants.filter(like="excluded_").any(axis=1)]
    one, two = before.participants.loc[careful[:2], "participant"]
    trials = study.trials.assign(released_at="2026-01-01T10:00:00Z", received_at=None)
    order = pd.to_numeric(trials["trial"])
    clock = pd.Timestamp("2026-01-01T10:00:00Z") + pd.to_timedelta(order * 0.2, unit="s")
    trials["received_at"] = clock.map(pd.Timestamp.isoformat)  # faster than the rule of ten allows
    for person, kept in ((one, 1), (two, 9)):
        gone = (trials["participant"] == person) & (order > kept)
        trials.loc[gone, ["answer", "said_real", "correct", "response_ms", "received_at"]] = None
        trials.loc[(trials["participant"] == person) & ~gone, "answer"] = "real"
        trials.loc[(trials["participant"] == person) & ~gone, "response_ms"] = 100.0
    stopped = study.participants["participant"].isin([one, two])
    people = study.participants.assign(complete=1.0 - stopped)
    flags = analysis.flag_exclusions(
        replace(study, trials=trials, participants=people), rules
    ).participants
    flags = flags.filter(like="excluded_").astype(bool)
    assert (flags[stopped].sum() == stopped.sum()).to_dict() == {
        name: name == "excluded_incomplete" for name in flags
    }
    assert flags.loc[~stopped, "excluded_rate"].all()


def test_catch_trials_that_nobody_saw_are_not_wrong(study):
    rules = protocol.load("balanced-yesno")  # three of four are to be right
    catch = study.trials.index[study.trials["kind"] == "catch"]
    person = study.trials.loc[catch[0], "participant"]
    mine = [row for row in catch if study.trials.loc[row, "participant"] == person]
    for right, flagged in (([1, 1, None, None], False), ([0, 0, None, None], True)):
        trials = study.trials.copy()
        trials.loc[mine, "correct"] = pd.Series(right, mine, dtype=float)
        people = analysis.flag_exclusions(
            replace(study, trials=trials), rules
        ).participants.set_index("participant")
        assert people.loc[person, "excluded_catch"] == flagged


def test_flags_are_the_same_for_columns_that_know_missing_values(study):
    """The export's own tables have pandas' nullable types."""
    rules = protocol.load("balanced-yesno")
    trials = study.trials.assign(
        response_ms=study.trials["response_ms"].where(study.trials.index > 3)
    )
    people = study.participants
    flags = [
        analysis.flag_exclusions(
            analysis.Study(convert(trials), convert(people), study.images, study.source, "yesno"),
            rules,
        )
        for convert in (lambda table: table, lambda table: table.convert_dtypes())
    ]
    for name in ("trials", "participants"):
        plain, nullable = (getattr(one, name).filter(like="excluded_") for one in flags)
        assert plain.astype(bool).equals(nullable.astype(bool)) and plain.to_numpy().any()


def test_timed_photos_shown_for_too_long_are_flagged():
    rules = protocol.load("2afc-1s")
    study = simulation.simulate(10, 10, mode="2afc")
    shown = study.trials.assign(exposure_first_ms=1000.0, exposure_second_ms=1004.0)
    shown.loc[7, "exposure_second_ms"] += rules.exclusions.max_exposure_error_ms
    flagged = analysis.flag_exclusions(
        analysis.Study(shown, study.participants, study.images, study.source, "2afc"), rules
    )
    assert list(np.flatnonzero(flagged.trials["excluded_exposure"])) == [7]


# The export


def write_export(folder, study, **changed):
    """The files of an export of the survey, as far as the analysis reads them."""
    (folder / "data").mkdir(parents=True)
    words = {1.0: "true", 0.0: "false"}
    for name in ("trials", "participants", "images"):
        table = changed.get(name, getattr(study, name)).copy()
        for column in {"correct", "said_real", "repeat", "complete"} & set(table):
            table[column] = table[column].map(words)
        path = folder / "data" / f"study-koala_table-{name}_data.csv"
        table.to_csv(path, index=False)
    (folder / "dataset_description.json").write_text(json.dumps({"name": "a test"}))
    return folder


def test_export_is_read_back(study, tmp_path):
    read = analysis.read_export(write_export(tmp_path / "export", study))
    assert read.mode == "yesno" and read.source == "export of the survey: a test"
    assert analysis.acceptance(read.answers()).equals(analysis.acceptance(study.answers()))
    holes = study.trials.assign(said_real=study.trials["said_real"].where(study.trials.index > 3))
    holes["answer"] = holes["answer"].where(holes.index > 3)
    holed = analysis.read_export(write_export(tmp_path / "holes", study, trials=holes))
    assert holed.answers()["said_real"].isna().sum() == 4  # missing stays missing


def broken(study, column, value):
    trials = study.trials.copy()
    trials[column] = trials[column].astype(object)
    trials.loc[2, column] = value
    return trials


def test_rows_that_would_double_answers_or_drop_them_are_named(study, tmp_path):
    """Two exports in one file doubled every answer of the people in both."""
    people, images = study.participants, study.images
    strangers = people.assign(session=[f"other-{number}" for number in range(len(people))])
    for number, (changed, message) in enumerate(
        (
            ({"participants": pd.concat([people, people[:1]])}, "participants.*row 22, session"),
            ({"images": pd.concat([images, images[1:2]])}, "images.*stimulus: stands in an earl"),
            ({"participants": strangers}, "trials.*row 2, session: is not in the table of part"),
        )
    ):
        folder = write_export(tmp_path / str(number), study, **changed)
        with pytest.raises(ColorlibError, match=message):
            analysis.read_export(folder)


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("answer", "yes", r"row 4, answer: must be one of.*'yes'"),
        ("response_ms", "soon", r"row 4, response_ms: must be a number.*'soon'"),
        ("trial", 2, r"row 4, trial: this trial of this session stands in an earlier row too"),
        ("stimulus", "s999", r"row 4, stimulus: is not in the table of images.*'s999'"),
        ("participant", "who", r"row 4, participant: is not in the table of participants"),
        ("scene", "s999", r"row 4, scene: contradicts the table of images"),
    ],
)
def test_contradictions_in_an_export_are_named(study, tmp_path, column, value, message):
    folder = write_export(tmp_path / "export", study, trials=broken(study, column, value))
    with pytest.raises(ColorlibError, match=message) as caught:
        analysis.read_export(folder)
    assert "\n" not in str(caught.value)
    assert "trials_data.csv" in str(caught.value)


def test_said_real_must_fit_the_answer(study, tmp_path):
    trials = study.trials.copy()
    trials.loc[5, "said_real"] = 1 - trials.loc[5, "said_real"]
    folder = write_export(tmp_path / "export", study, trials=trials)
    with pytest.raises(ColorlibError, match="row 7, said_real: contradicts the answer"):
        analysis.read_export(folder)


def test_what_is_no_export_says_so(study, tmp_path):
    with pytest.raises(ColorlibError, match="dataset_description.json: not there"):
        analysis.read_export(tmp_path)
    folder = write_export(tmp_path / "export", study, images=study.images.drop(columns="scene"))
    with pytest.raises(ColorlibError, match="images_data.csv: has no column 'scene'"):
        analysis.read_export(folder)
    (folder / "data" / "study-koala_table-participants_data.csv").unlink()
    with pytest.raises(ColorlibError, match="participants_data.csv: not there"):
        analysis.read_export(folder)
    (folder / "dataset_description.json").write_text("{")
    with pytest.raises(ColorlibError, match="not JSON"):
        analysis.read_export(folder)


# The benchmark


@pytest.mark.slow
def test_benchmark_of_coverage_prints_a_table():
    script = Path(__file__).parent / "benchmarks" / "study_coverage.py"
    done = subprocess.run(
        [sys.executable, script, "--studies=4", "--mixed=1", "--ranks=2", "--sizes", "10x8"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (
        sum("10x8 4+4" in line for line in lines) == sum("10x8 6+2" in line for line in lines) == 7
    )
    assert sum("10x9 ranks" in line for line in lines) == 4
    assert all("below" in line and "above" in line for line in lines[1:])


def test_parts_of_a_simulation_are_as_uncertain_together_as_the_whole(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    from study_coverage import summary

    # Intervals from 0 to 1, of which a tenth miss what is true.
    truths = np.where(np.random.default_rng(1).random((4, 10)) < 0.9, 0.5, 1.5)
    same = {"people": 41, "photos": 12, "design": "6+6", "interval": "mixed"}
    names = ["coverage", "below", "above", "width", "uncertainty"]

    def table(part):
        return pd.DataFrame([same | coverage._held([(0, 1, truth) for truth in part])])

    together = summary([table(part) for part in truths])[["studies", *names]]
    pd.testing.assert_frame_equal(together, table(truths.ravel())[["studies", *names]])


# The notebook


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["yesno", "2afc"])
def test_notebook_says_of_every_table_and_figure_what_it_shows(mode, tmp_path):
    """Of an export in either mode; the mode that it lacks is shown with simulated people."""
    asked = simulation.simulate(people=10, scenes=8, mode=mode)
    folder = write_export(tmp_path / "export", asked)
    small = {"EXPORT": str(folder), "PEOPLE": 10, "SCENES": 8, "STUDIES": 3}
    output = tmp_path / "out"
    assert run.run("quick", ["02_analysis"], small, output=output, notebooks=ROOT / "study") == 0
    cells = json.loads((output / "02_analysis.ipynb").read_text("utf-8"))["cells"]
    outputs = [one for cell in cells for one in cell.get("outputs", ())]
    html = ["".join(one.get("data", {}).get("text/html", "")) for one in outputs]
    page = BeautifulSoup("".join(html), "html.parser")
    captions = [caption.text for caption in page.find_all("caption")]
    pictures = [one["alt"].lower() for one in read_manifest(output / "figures").values()]
    assert len(captions) == len(page.find_all("table")) >= 15 and len(pictures) >= 8
    sources = ("published", "simulated people", "export of the survey: a test")
    for title in [caption.lower() for caption in captions] + pictures:
        assert any(source in title for source in sources), title
    of_export = [title for title in captions + pictures if sources[2] in title]
    assert len(of_export) == (13 if mode == "yesno" else 4)
    assert [one for one in outputs if one.get("name") == "stderr"] == []
