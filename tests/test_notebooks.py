"""The project's own notebooks, as the runner runs them: every one, headlessly, with its page."""

import json
import re
import shlex
import shutil
import zipfile

import nbformat
import pytest
from nbclient import NotebookClient

from colorlib import ASSETS, presets
from colorlib.__main__ import _parser
from colorlib.config import TrainingConfig
from notebooks import figures, run

NOTEBOOKS = {
    path.stem: f"{folder}/{path.name}"
    for folder in run.FOLDERS
    for path in (figures.ROOT / folder).glob("*.ipynb")
}


@pytest.mark.slow
def test_every_notebook_runs_and_has_a_page(smoke):
    records = json.loads((smoke / "results.json").read_text())
    assert sorted(records) == sorted(NOTEBOOKS)
    index = (smoke / "site" / "index.html").read_text()
    for stem in NOTEBOOKS:
        assert records[stem]["result"] == "ok"
        assert f'href="{stem}.html"' in index
        page = (smoke / "site" / f"{stem}.html").read_text()
        assert re.search(r'<img[^>]+alt="[^"]{10,}', page), f"{stem}: no picture with a description"
        assert '<div class="output stderr' not in page
        assert "<code>\\" not in page, "mathematics that can't be set"


def imports_of(stem):
    """The source of a notebook's first cell of imports."""
    cells = nbformat.read(figures.ROOT / NOTEBOOKS[stem], as_version=4).cells
    return next(cell.source for cell in cells if "import keras" in cell.source)


@pytest.mark.slow
def test_a_reader_sees_no_notes_of_tensorflow(monkeypatch):
    """In a kernel as JupyterLab starts it, whose output is what a cell shows."""
    first = imports_of("02_training")
    assert "from colorlib import Colorizer" in first
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(figures.ROOT))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    sources = [first, "import keras\n\nprint(float(keras.ops.sum(keras.ops.ones(2))))"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = {"metadata": {"path": figures.ROOT / "notebooks"}}  # where the notebooks run
    NotebookClient(notebook, kernel_name="python3", startup_timeout=180, resources=folder).execute()
    shown = [(output.name, output.text) for cell in notebook.cells for output in cell.outputs]
    assert shown == [("stdout", "2.0\n")]


@pytest.mark.slow
def test_a_folder_of_photos_is_colored_whatever_else_is_in_it(sample, smoke):
    names = sorted(photo.name for photo in sample[:2])
    assert sorted(path.name for path in (smoke / "colored").glob("*.jpg")) == names
    with zipfile.ZipFile(smoke / "colored.zip") as file:
        assert sorted(file.namelist()) == names
    text = (smoke / "04_historical_photos.ipynb").read_text()
    assert text.count(f"{smoke.parent / 'photos' / 'broken.jpg'}: not a photo") == 1


@pytest.mark.slow
def test_figures_of_a_run_trace_to_code_data_and_weights(smoke):
    assert figures.check_manifest(smoke / "figures") == []
    entries = figures.read_manifest(smoke / "figures")
    assert {entry["notebook"] for entry in entries.values()} == set(NOTEBOOKS.values())


@pytest.mark.slow
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
    cards = list(output.rglob("card.json"))
    assert any(json.loads(card.read_text())["history"][-1]["step"] == 3 for card in cards)
