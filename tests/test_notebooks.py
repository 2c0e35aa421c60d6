"""The project's own notebooks: what they import and train, and the figures made by them."""

import json
import re
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from colorlib import ASSETS
from notebooks import figures, run


def imports_of(stem):
    """The source of a notebook's first cell of imports."""
    cells = nbformat.read(figures.ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells
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
