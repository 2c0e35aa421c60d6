"""The notebooks as a reader runs them: every one, headlessly, with its page and its figures."""

import json
import re
import shlex
import shutil

import pytest

from colorlib import ASSETS, figures, presets
from colorlib.__main__ import _parser
from colorlib.reproduce import FOLDERS, reproduce
from colorlib.training import TrainingConfig

NOTEBOOKS = {
    path.stem: f"{folder}/{path.name}"
    for folder in FOLDERS
    for path in (figures.ROOT / folder).glob("*.ipynb")
}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    output = tmp_path_factory.mktemp("smoke")
    assert reproduce("smoke", output=output) == 0
    return output


def test_every_notebook_runs_and_has_a_page(smoke):
    records = json.loads((smoke / "results.json").read_text())
    assert sorted(records) == sorted(NOTEBOOKS)
    index = (smoke / "index.html").read_text()
    for stem in NOTEBOOKS:
        assert records[stem]["result"] == "ok"
        assert f'href="{stem}.html"' in index
        page = (smoke / f"{stem}.html").read_text()
        assert re.search(r'<img[^>]+alt="[^"]{10,}', page), f"{stem}: no picture with a description"
        assert 'class="jp-RenderedText" data-mime-type="application/vnd.jupyter.stderr"' not in page


def test_figures_of_a_run_trace_to_code_data_and_weights(smoke):
    assert figures.check_manifest(smoke / "figures") == []
    entries = figures.read_manifest(smoke / "figures")
    assert {entry["notebook"] for entry in entries.values()} == set(NOTEBOOKS.values())


def test_printed_commands_train_the_presets_again(smoke):
    cells = json.loads((smoke / "02_training.ipynb").read_text())["cells"]
    streams = [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "stream"]
    text = "".join("".join(stream["text"]) for stream in streams)
    commands = re.findall(r"^colorlib (train .*?[^\\])$", text, re.MULTILINE | re.DOTALL)
    assert len(commands) == len(presets.preset_names())
    paths = {"photos": "DIR", "validation": "DIR"}
    for command in commands:
        args = vars(_parser().parse_args(shlex.split(command.replace("\\\n", " "))))
        card = presets.load_card(args["output"].name)
        options = {k: v for k, v in args.items() if k in card["config"] and v is not None}
        assert TrainingConfig(**options | paths) == TrainingConfig(**card["config"] | paths)


def test_published_figures_still_hold():
    published = figures.read_manifest(figures.ROOT / "figures")
    assert sorted(published) == sorted(figures.FIGURES)
    assert figures.check_manifest(figures.ROOT / "figures") == []


def test_full_trains_from_scratch_and_scores_the_result(tmp_path):
    photos = sorted((ASSETS / "sample").glob("*.jpg"))[::4][:12]
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in photos:
        shutil.copy(photo, folder)
    parameters = {"EPOCHS": 1, "STEPS_PER_EPOCH": 3, "BATCH": 4, "SIZE": 64, "SHORT_SIDE": 72}
    parameters |= {"MAX_PHOTOS": 6, "EXAMPLES": 2}
    output = tmp_path / "out"
    code = reproduce(
        "full", ["02_training", "03_results"], parameters, photos=folder, output=output
    )
    assert code == 0
    cards = list(output.rglob("card.json"))
    assert any(json.loads(card.read_text())["history"][-1]["step"] == 3 for card in cards)
