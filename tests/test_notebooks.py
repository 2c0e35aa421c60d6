"""The project's own notebooks: what they import and train, and the figures made by them."""

import json
import re
import shutil

import pytest

from colorlib import ASSETS
from notebooks import figures, run


def test_published_figures_still_hold():
    published = figures.read_manifest(figures.ROOT / "figures")
    assert sorted(published) == sorted(run.FIGURES)
    assert figures.check_manifest(figures.ROOT / "figures") == []


def test_published_figures_are_small():
    folder = figures.ROOT / "figures"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    readme = (figures.ROOT / "README.md").read_text(encoding="utf-8")
    (first,) = re.findall(r"^!\[.+\]\((figures/.+)\)$", readme, re.MULTILINE)
    assert (figures.ROOT / first).stat().st_size < 300e3


@pytest.mark.slow
def test_full_trains_from_scratch_and_scores_the_result(tmp_path):
    photos = sorted((ASSETS / "sample").glob("*.jpg"))[::4][:12]
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in photos:
        shutil.copy(photo, folder)
    parameters = {"EPOCHS": 1, "STEPS_PER_EPOCH": 3, "BATCH": 4, "SIZE": 32, "SHORT_SIDE": 40}
    parameters |= {"MAX_PHOTOS": 3, "EXAMPLES": 1}
    output = tmp_path / "out"
    code = run.run("full", ["02_training", "03_results"], parameters, photos=folder, output=output)
    assert code == 0
    assert json.loads((output / "run" / "card.json").read_text())["history"][-1]["step"] == 3
    figure = figures.read_manifest(output / "figures")["results_drawn"]
    trained = [path for path in figure["inputs"] if path.endswith("weights.weights.h5")]
    assert len(trained) == 1 and "run/weights" in trained[0], "others were scored"
