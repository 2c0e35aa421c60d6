"""Grids that show photos as they are, and manifests that notice when a figure is out of date."""

import itertools
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from colorlib import ASSETS, ColorlibError
from colorlib.files import sha256
from colorlib.presets import WEIGHTS, preset_folder
from notebooks import figures
from notebooks.figures import (
    ROOT,
    check_manifest,
    photo_grid,
    publish,
    read_manifest,
    save_figure,
    use_style,
)

SAMPLE = sorted((ASSETS / "sample").glob("*.jpg"))
NOTEBOOK = ROOT / "tests" / "notebooks" / "draws.ipynb"


def rendered(figure):
    """The figure's pixels (H, W, 3), and its texts and photos as boxes in pixels from the top."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    height = pixels.shape[0]
    texts = [text.get_window_extent() for text in figure.texts if text.get_text()]
    photos = [axes.get_window_extent() for axes in figure.axes]
    return pixels, *(
        [(box.x0, height - box.y1, box.x1, height - box.y0) for box in boxes]
        for boxes in (texts, photos)
    )


def overlap(one, other):
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide > 0.5 and high > 0.5


# A landscape, a square, a portrait, a panorama and a strip that is higher than any page.
SHAPES = [(200, 300), (240, 240), (400, 220), (60, 480), (900, 60)]


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 2), (5, 6), pytest.param(12, 6, marks=pytest.mark.slow)]
)
def test_grid_clips_and_overlaps_nothing_and_keeps_aspect_ratios(rows, columns):
    shapes = [SHAPES[row % len(SHAPES)] for row in range(rows)]
    photos = [[np.full((*shape, 3), 90, np.uint8)] * columns for shape in shapes]
    figure = photo_grid(
        photos,
        ["a title that is far too long for the width of one column", "Ünïcode $x"][:columns]
        + ["output"] * (columns - 2),
        row_titles=["a_file_name_without_a_single_space_in_it_0815" if r % 2 else "cat"
                    for r in range(rows)],
        captions=[["ab-PSNR 24.31 dB, SSIM 0.912, colorfulness 18.2"] * columns] * rows,
    )  # fmt: skip
    pixels, texts, boxes = rendered(figure)
    height, width = pixels.shape[:2]
    assert len(texts) == columns + rows + rows * columns
    assert len(boxes) == rows * columns
    for left, top, right, bottom in texts + boxes:
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
    for one, other in itertools.combinations(texts + boxes, 2):
        assert not overlap(one, other)
    for (left, top, right, bottom), shape in zip(
        boxes, [shape for shape in shapes for _ in range(columns)], strict=True
    ):
        high, wide = bottom - top, right - left
        # Within the one pixel that rounding to whole pixels costs.
        assert (
            abs(wide - high * shape[1] / shape[0]) <= 1
            or abs(high - wide * shape[0] / shape[1]) <= 1
        )


def test_grid_shows_each_photo_in_its_own_colors():
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in SAMPLE[:6]]
    pixels, _, boxes = rendered(photo_grid([photos[:3], photos[3:]], ["one", "two", "three"]))
    for photo, (left, top, right, bottom) in zip(photos, boxes, strict=True):
        shown = pixels[round(top) : round(bottom), round(left) : round(right)]
        np.testing.assert_allclose(shown.mean((0, 1)), photo.mean((0, 1)), atol=1.5)
        edges = [shown[0], shown[-1], shown[:, 0], shown[:, -1]]  # no border of background
        sources = [photo[0], photo[-1], photo[:, 0], photo[:, -1]]
        for edge, source in zip(edges, sources, strict=True):
            np.testing.assert_allclose(edge.mean(0), source.mean(0), atol=12)


def test_grid_takes_paths_gray_16_bit_and_empty_places():
    ramp = np.linspace(0, 65535, 200 * 300).reshape(200, 300, 1).repeat(3, 2).astype(np.uint16)
    row = [SAMPLE[0], Image.open(SAMPLE[0]).convert("L"), ramp, None]
    pixels, texts, boxes = rendered(photo_grid([row], ["path", "gray", "16 bit", "nothing"]))
    assert len(boxes) == 3 and len(texts) == 4
    left, top, right, bottom = map(round, boxes[2])
    shown = pixels[top:bottom, left:right]
    assert shown[0, 0, 0] <= 2 and shown[-1, -1, 0] >= 253


def test_grid_refuses_titles_that_do_not_fit():
    photo = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="rows must hold"):
        photo_grid([[photo]], ["input", "output"])
    with pytest.raises(ValueError, match="must have the shape of rows"):
        photo_grid([[photo]], ["input"], row_titles=["one", "two"])
    with pytest.raises(ValueError, match="must have the shape of rows"):
        photo_grid([[photo]], ["input"], captions=[["one", "two"]])


def test_a_grid_is_legible_on_a_phone():
    photo = np.zeros((40, 60, 3), np.uint8)
    figure = photo_grid([[photo] * 3], ["one", "two", "three"], ["a row"], [["x", None, "y"]])
    pixels, texts, boxes = rendered(figure)
    phone = 358 / pixels.shape[1]  # the width that a page has there
    assert min(text.get_size() for text in figure.texts) * figure.dpi / 72 * phone >= 9
    assert min((right - left) * phone for left, _, right, _ in boxes) > 110


def test_a_row_without_title_takes_no_room_for_it():
    photo = np.zeros((40, 60, 3), np.uint8)
    with_titles = photo_grid([[photo, photo]] * 2, row_titles=["one", "two"])
    with_one = photo_grid([[photo, photo]] * 2, row_titles=["one", ""])
    plain = photo_grid([[photo, photo]] * 2)
    heights = [figure.get_figheight() for figure in (plain, with_one, with_titles)]
    assert heights[0] < heights[1] < heights[2]


def test_style_clips_no_labels():
    import matplotlib

    with matplotlib.rc_context():
        use_style()
        from matplotlib.figure import Figure

        figure = Figure()
        axes = figure.subplots(1, 2)
        for one in axes:
            one.bar(range(3), [1, 2, 3], tick_label=["a", "b", "c"])
            one.set(xlabel="a long label of the x axis", ylabel="and of y\non two lines")
            one.set_title("A title")
        FigureCanvasAgg(figure).draw()
        box = figure.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def test_importing_figures_is_quick():
    heavy = "{'matplotlib', 'keras', 'tensorflow', 'pandas'}"
    code = f"import sys, notebooks.figures; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A clone with one saved figure: (clone, figures folder)."""
    photo = SAMPLE[0].relative_to(ROOT)
    for path in (NOTEBOOK.relative_to(ROOT), photo):
        (tmp_path / path).parent.mkdir(parents=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    monkeypatch.setenv("COLORLIB_OUTPUT", str(tmp_path / "outputs"))
    monkeypatch.setenv("COLORLIB_NOTEBOOK", str(NOTEBOOK))
    monkeypatch.setenv("COLORLIB_PARAMETERS", json.dumps({"SEED": 7, "COUNT": 1}))
    save_figure(grid(), "grid", data=[SAMPLE[0]], alt="A photo.")
    return tmp_path, tmp_path / "outputs" / "figures"


def grid():
    return photo_grid([[SAMPLE[0], SAMPLE[0]]], ["input", "output"])


def test_saved_figure_traces_to_what_made_it(saved):
    _, folder = saved
    entry = read_manifest(folder)["grid"]
    photo = SAMPLE[0].relative_to(ROOT).as_posix()
    assert entry["file"] == "grid.jpg"
    assert entry["notebook"] == "tests/notebooks/draws.ipynb"
    assert entry["parameters"] == {"SEED": 7, "COUNT": 1}
    assert entry["seed"] == 7
    assert entry["inputs"].keys() == {photo, "tests/notebooks/draws.ipynb"}
    assert entry["inputs"][photo] == sha256(SAMPLE[0])
    assert entry["alt"] == "A photo."
    assert {"colorlib", "matplotlib", "numpy"} <= entry["versions"].keys()
    with Image.open(folder / "grid.jpg") as image:
        assert entry["size"] == list(image.size)
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert check_manifest(folder) == []


def test_a_figure_without_photos_is_a_png_and_replaces_one_with_photos(saved):
    _, folder = saved
    curve = Figure()
    curve.subplots().plot([1, 2])
    save_figure(curve, "grid")
    assert sorted(path.name for path in folder.iterdir()) == ["grid.png", "manifest.json"]
    with Image.open(folder / "grid.png") as image:
        assert image.format == "PNG" and read_manifest(folder)["grid"]["size"] == list(image.size)


def test_same_figure_gives_the_same_bytes(saved):
    _, folder = saved
    before = [path.read_bytes() for path in sorted(folder.iterdir())]
    save_figure(grid(), "grid", data=[SAMPLE[0]], alt="A photo.")
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == before


def test_a_notebook_run_by_hand_has_its_own_folder(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", str(NOTEBOOK))  # what Jupyter's server sets
    output, notebook, parameters = figures._context()
    assert output == ROOT / "outputs" / "interactive"
    assert figures.relative(notebook) == "tests/notebooks/draws.ipynb"
    assert parameters is None


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda clone, folder: (folder / "grid.jpg").unlink(), "not there"),
        (lambda clone, folder: (folder / "grid.jpg").write_bytes(b"other"), "not the file"),
        (lambda clone, folder: (folder / "new.png").write_bytes(b"new"), "no entry"),
        (lambda clone, folder: (folder / "manifest.json").unlink(), "no entry"),
        (lambda clone, folder: (folder / "manifest.json").write_text("{"), "not a manifest"),
        (
            lambda clone, folder: edit(
                clone / "tests/notebooks/draws.ipynb", "use_style()", "print()"
            ),
            "draws.ipynb has changed",
        ),
        (lambda clone, folder: (clone / "tests/notebooks/draws.ipynb").unlink(), "is gone"),
        (
            lambda clone, folder: (clone / SAMPLE[0].relative_to(ROOT)).write_bytes(b"other"),
            f"{SAMPLE[0].name} has changed",
        ),
        (lambda clone, folder: (clone / SAMPLE[0].relative_to(ROOT)).unlink(), "is gone"),
        (
            lambda clone, folder: edit(
                folder / "manifest.json",
                '"notebook": "tests/notebooks/draws.ipynb"',
                '"notebook": null',
            ),
            "not saved by a notebook",
        ),
    ],
)
def test_a_figure_that_is_out_of_date_is_noticed(saved, break_it, complaint):
    clone, folder = saved
    assert check_manifest(folder, root=clone) == []
    break_it(clone, folder)
    problems = check_manifest(folder, root=clone)
    assert len(problems) == 1 and complaint in problems[0]


def test_weights_are_traced(saved, tmp_path):
    _, folder = saved
    run = tmp_path / "run"
    shutil.copytree(preset_folder(), run)
    save_figure(grid(), "grid", data=[SAMPLE[0]], preset=["paper", run])
    inputs = read_manifest(folder)["grid"]["inputs"]
    packaged = f"colorlib/assets/presets/paper/{WEIGHTS}"
    assert inputs[packaged] == sha256(ROOT / packaged)
    assert inputs[f"elsewhere: run/{WEIGHTS}"] == sha256(run / WEIGHTS)
    assert check_manifest(folder) == []
    edit(folder / "manifest.json", inputs[packaged], "0" * 64)
    assert check_manifest(folder) == [f"grid.jpg: {packaged} has changed; run its notebook again"]


def test_the_commit_is_recorded_and_whether_it_tells_all(saved, tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.setattr(figures, "ROOT", tmp_path)
    assert figures._commit() == (None, None), "no repository"
    (tmp_path / "module.py").write_text("a = 1")
    git("init")
    git("add", "module.py")
    git("commit", "-m", "One")
    git("tag", "v1")
    assert figures._commit() == (git("rev-parse", "HEAD"), True)
    (tmp_path / "module.py").write_text("a = 2")
    assert figures._commit() == (git("rev-parse", "HEAD"), False)
    monkeypatch.undo()
    entry = read_manifest(tmp_path / "outputs" / "figures")["grid"]
    assert (entry["commit"], entry["clean"]) == figures._commit()


def test_a_notebook_run_again_or_worded_anew_leaves_its_figures_in_date(saved):
    clone, folder = saved
    path = clone / "tests" / "notebooks" / "draws.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["edited"] = True
    notebook["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    notebook["cells"][2]["execution_count"] = 5
    notebook["cells"][3]["source"] = "## The grid"
    path.write_text(json.dumps(notebook))
    assert check_manifest(folder, root=clone) == []
    notebook["cells"][5]["source"] += "\naxes.grid()"
    path.write_text(json.dumps(notebook))
    changed = "tests/notebooks/draws.ipynb has changed; run its notebook again"
    assert set(check_manifest(folder, root=clone)) == {
        f"{entry['file']}: {changed}" for entry in read_manifest(folder).values()
    }


def test_a_notebook_is_read_when_its_save_is_over(tmp_path):
    path = tmp_path / "saved.ipynb"
    path.write_text("")  # as JupyterLab leaves it for a moment
    timer = threading.Timer(0.3, shutil.copyfile, (NOTEBOOK, path))
    timer.start()
    assert figures._hash(path) == figures._hash(NOTEBOOK)
    timer.join()
    path.write_text("")
    with pytest.raises(ColorlibError, match="saved.ipynb: not a notebook"):
        figures._hash(path)


def test_many_photos_are_counted_and_hashed_in_any_order(saved, tmp_path):
    _, folder = saved
    (tmp_path / "many").mkdir()
    for number in range(101):
        (tmp_path / "many" / f"{number}.jpg").write_bytes(b"%d" % number)
    paths = sorted((tmp_path / "many").iterdir())
    save_figure(grid(), "many", data=paths)
    first = read_manifest(folder)["many"]["inputs"]
    save_figure(grid(), "many", data=paths[::-1])
    assert read_manifest(folder)["many"]["inputs"] == first
    assert first.keys() == {"elsewhere: 101 photos", "tests/notebooks/draws.ipynb"}
    assert len(first["elsewhere: 101 photos"]) == 64


def test_one_name_belongs_to_one_notebook(saved, monkeypatch):
    monkeypatch.setenv("COLORLIB_NOTEBOOK", str(NOTEBOOK.with_name("ok.ipynb")))
    with pytest.raises(ColorlibError, match="draws.ipynb saves a figure of this name too"):
        save_figure(grid(), "grid")
    with pytest.raises(ValueError, match="name must be"):
        save_figure(grid(), "../grid")
    with pytest.raises(ColorlibError, match="no such photo|can't be read"):
        save_figure(grid(), "other", data=["nowhere.jpg"])


def test_published_figures_are_the_ones_asked_for(saved, tmp_path):
    _, folder = saved
    target = tmp_path / "published"
    save_figure(grid(), "second", data=[SAMPLE[0]])
    publish(folder, target, ["grid", "second"])
    assert read_manifest(target) == read_manifest(folder)
    publish(folder, target, ["grid"])
    assert sorted(path.name for path in target.iterdir()) == ["grid.jpg", "manifest.json"]
    assert check_manifest(target) == []
    curve = Figure()
    curve.subplots().plot([1, 2])
    save_figure(curve, "grid")  # without photos it is a PNG
    publish(folder, target, ["grid"])
    assert sorted(path.name for path in target.iterdir()) == ["grid.png", "manifest.json"]


def test_what_is_not_packaged_or_out_of_date_is_not_published(saved, tmp_path):
    _, folder = saved
    target = tmp_path / "published"
    own = tmp_path / "mine.jpg"
    shutil.copyfile(SAMPLE[0], own)
    save_figure(grid(), "private", data=[own])
    assert "elsewhere: mine.jpg" in read_manifest(folder)["private"]["inputs"]
    with pytest.raises(ColorlibError, match="private: depends on mine.jpg, which is not packaged"):
        publish(folder, target, ["grid", "private"])
    with pytest.raises(ColorlibError, match="missing: no such figure"):
        publish(folder, target, ["grid", "missing"])
    (folder / "grid.jpg").write_bytes(b"other")
    with pytest.raises(ColorlibError, match="not the file that was saved"):
        publish(folder, target, ["grid"])
    assert not target.exists()
