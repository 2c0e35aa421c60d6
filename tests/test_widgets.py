"""The slider and the gallery as a reader meets them: in an exported page and in JupyterLab."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from datetime import UTC, datetime

import h5py
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import NO_SHEETS, swipe
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image

import colorlib
from colorlib import photos, presets, widgets
from colorlib.__main__ import main
from colorlib.files import sha256
from notebooks import figures, run

FLOWER = "nature_python3_flower.jpg"
SETUP = """
from colorlib import photos
from colorlib.widgets import compare, explorer, gallery
from skimage.color import gray2rgb, rgb2gray
sample = photos.packaged("sample").set_index("file")["path"]
flower, cat = sample["nature_python3_flower.jpg"], sample["animal_gnome_1_maine.jpg"]
gray = gray2rgb(rgb2gray(photos.as_rgb(flower)))
"""
COMPARE = "compare(gray, flower, labels=('gray', 'color'), alt='A dahlia')"
VERSIONS = """compare(
    {"gray": gray, "network": gray / 9, "truth": flower}, alt="A dahlia"
)"""
GALLERY = """gallery(
    [flower, (gray, flower), cat],
    titles=["A dahlia", "A dahlia, gray and in color", "A cat & <its> whiskers"],
    credits=["Someone", "Someone", "Someone else"],
)"""


def notebook(*sources):
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, *sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def export(folder, *sources):
    """Executes a notebook and writes the page that `jupyter nbconvert --to html` makes of it."""
    executed = NotebookClient(
        notebook(*sources), kernel_name="python3", startup_timeout=180
    ).execute()
    page = folder / "page.html"
    page.write_text(HTMLExporter().from_notebook_node(executed)[0], encoding="utf-8")
    return page.as_uri()


@pytest.fixture(scope="module")
def address(chromium, tmp_path_factory):
    """A page with sliders, a gallery, an explorer run by hand and by the runner, and versions."""
    explorer = "explorer([flower, cat])"
    runner = f"import os; os.environ['COLORLIB_OUTPUT'] = '.'\n{explorer}"
    cells = (COMPARE, COMPARE, GALLERY, explorer, runner, VERSIONS)
    return export(tmp_path_factory.mktemp("page"), *cells)


@pytest.fixture
def visit(browser):
    """Opens a page without a network; at the end, what its frames asked for and complained of."""
    opened, wrong = [], []

    def judge(route):
        request = route.request
        if request.url.startswith(("file:", "data:")):
            return route.continue_()
        # nbconvert's own template asks for MathJax and RequireJS; the frames ask for nothing.
        if request.frame != request.frame.page.main_frame:
            wrong.append(f"asks the network for {request.url}")
        return route.abort()

    def visit(address, width=1200, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(120_000)
        opened.append(context)
        page = context.new_page()
        page.route("**/*", judge)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", complain)
        page.goto(address)
        return page

    def complain(message):
        if message.type in ("error", "warning") and "net::ERR_FAILED" not in message.text:
            wrong.append(message.text)

    yield visit
    for context in opened:
        context.close()
    assert not wrong


def slider_in(page, frame=0):
    slider = (
        page.frame_locator("iframe.colorlib").nth(frame).locator("img-comparison-slider.rendered")
    )
    slider.first.scroll_into_view_if_needed()
    return slider.first


def look(page, slider, x, y=0.5):
    """What a place of the slider, given in parts of its size, looks like on the screen."""
    page.wait_for_timeout(200)  # the divider follows in a tenth of a second
    box = slider.bounding_box()
    clip = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
    shot = page.screenshot(clip=clip | {"width": 3, "height": 3})
    pixel = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float).mean((0, 1))
    if pixel.max() < 60:
        return "dark"
    return "gray" if np.ptp(pixel) < 4 else "color" if np.ptp(pixel) > 60 else str(pixel)


def drag(page, slider, start, end):
    box = slider.bounding_box()
    places = [box["x"] + part * box["width"] for part in (start, end)]
    y = box["y"] + box["height"] / 2
    page.mouse.move(places[0], y)
    page.mouse.down()
    page.mouse.move(places[1], y, steps=5)
    page.mouse.up()


def position(slider):
    return float(slider.evaluate("element => element.value"))


def assert_slides(page, slider):
    """The dahlia's petals at 0.4 and 0.6 of the width are gray or orange."""
    assert look(page, slider, 0.4) == "gray" and look(page, slider, 0.6) == "color"
    drag(page, slider, 0.5, 0.2)
    assert position(slider) == pytest.approx(20, abs=1)
    assert look(page, slider, 0.4) == "color"
    drag(page, slider, 0.2, 0.8)
    assert look(page, slider, 0.4) == "gray" and look(page, slider, 0.6) == "gray"
    slider.press("Home")
    assert position(slider) == 0 and look(page, slider, 0.4) == "color"
    slider.press("End")
    assert position(slider) == 100 and look(page, slider, 0.6) == "gray"
    slider.press("ArrowLeft")
    page.wait_for_timeout(200)
    assert position(slider) == 95, "one press is one step"
    for _ in range(3):  # a held key comes again and again
        page.keyboard.down("ArrowLeft")
    page.keyboard.up("ArrowLeft")
    page.wait_for_timeout(200)
    assert position(slider) == 80
    assert slider.get_attribute("aria-valuenow") == str(round(position(slider)))


def test_exported_slider_follows_mouse_and_keys_without_network(visit, address):
    page = visit(address)
    for frame in (0, 1):
        assert_slides(page, slider_in(page, frame))


def test_slider_says_what_it_shows(visit, address):
    slider = slider_in(visit(address))
    assert slider.get_attribute("role") == "slider"
    assert slider.get_attribute("aria-label") == "gray or color: A dahlia"
    assert slider.get_attribute("aria-valuetext") == "50 % gray"
    alts = [image.get_attribute("alt") for image in slider.locator("img").all()]
    assert alts == ["A dahlia (gray)", "A dahlia (color)"]
    for caption, text in zip(slider.locator("figcaption").all(), ("gray", "color"), strict=True):
        assert caption.is_visible() and caption.inner_text() == text


@pytest.mark.slow
def test_versions_change_places_on_the_right(visit, address):
    page = visit(address, width=390, has_touch=True)
    slider = slider_in(page, 5)
    frame = page.frame_locator("iframe.colorlib").nth(5)
    slider.press("Home")
    assert look(page, slider, 0.4) == "dark"
    assert slider.get_attribute("aria-label") == "gray or network: A dahlia"
    captions = slider.locator("figcaption:visible").all_inner_texts()
    assert captions == ["gray", "network"]
    frame.get_by_role("radio", name="truth").tap()
    assert look(page, slider, 0.4) == "color" and position(slider) == 0
    assert slider.get_attribute("aria-label") == "gray or truth: A dahlia"
    page.keyboard.press("ArrowLeft")
    assert frame.get_by_role("radio", name="network").is_checked()
    assert look(page, slider, 0.4) == "dark"
    outer = page.locator("iframe.colorlib").nth(5).bounding_box()
    assert outer["height"] >= slider.bounding_box()["height"] + 30, "the frame holds the buttons"


@pytest.mark.slow
def test_slider_slides_in_safari_before_16_4(visit, address):
    page = visit("about:blank")
    page.add_init_script(NO_SHEETS)
    page.goto(address)
    assert_slides(page, slider_in(page))


def test_photos_are_seen_where_the_slider_never_comes(visit, address):
    page = visit("about:blank", width=390)
    page.add_init_script("customElements.define = () => {}")
    page.goto(address)
    frame = page.frame_locator("iframe.colorlib").first
    frame.locator("img").first.scroll_into_view_if_needed()
    boxes = [photo.bounding_box() for photo in frame.locator("img:visible").all()]
    assert len(boxes) == 2 and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


def test_without_scripts_all_versions_are_to_be_seen(visit, address):
    page = visit(address, java_script_enabled=False)
    for index, count in ((0, 2), (5, 3)):
        frame = page.locator("iframe.colorlib").nth(index)
        frame.scroll_into_view_if_needed()
        within = frame.bounding_box()
        photos = page.frame_locator("iframe.colorlib").nth(index).locator("img")
        boxes = [photo.bounding_box() for photo in photos.all()]
        assert len({(box["x"], box["y"]) for box in boxes}) == count
        for box in boxes:
            assert box["x"] + box["width"] <= within["x"] + within["width"] + 1
            assert box["y"] + box["height"] <= within["y"] + within["height"] + 1


@pytest.mark.slow
def test_slider_follows_a_finger_that_goes_across(visit, address):
    page = visit(address, width=390, has_touch=True)
    slider = slider_in(page)
    swipe(page, slider, (0.5, 0.5), (0.2, 0.5))
    assert position(slider) == pytest.approx(20, abs=2)
    assert look(page, slider, 0.4) == "color"
    # The slider has the focus now, where the element itself would follow any touch.
    swipe(page, slider, (0.8, 0.9), (0.85, 0.1))
    assert position(slider) == pytest.approx(20, abs=2), "a finger that scrolls moves the divider"
    page.wait_for_timeout(700)  # The page still scrolls after a swipe, and a tap would stop that.
    slider.scroll_into_view_if_needed()  # It may have scrolled far.
    page.wait_for_timeout(300)
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"])
    page.wait_for_timeout(300)
    assert position(slider) == pytest.approx(70, abs=2)


def shown(gallery):
    """The number of the slide that is to be seen, counted from 1."""
    visible = [slide.is_visible() for slide in gallery.locator(".slide").all()]
    assert visible.count(True) == 1
    return visible.index(True) + 1


@pytest.mark.slow
def test_gallery_turns_by_button_key_thumbnail_and_swipe(visit, address):
    page = visit(address, width=800, has_touch=True)
    gallery = page.frame_locator("iframe.colorlib").nth(2).locator(".gallery")
    gallery.scroll_into_view_if_needed()
    assert shown(gallery) == 1
    gallery.get_by_label("Next").click()
    assert shown(gallery) == 2
    assert_slides(page, slider_in(page, 2))
    assert shown(gallery) == 2, "the slider's keys turned the gallery"
    gallery.locator(".thumbs button").nth(1).focus()
    page.keyboard.press("ArrowRight")
    assert shown(gallery) == 3
    assert gallery.locator(":focus").get_attribute("aria-label").startswith("Show 3 of 3")
    assert (
        gallery.locator(".slide.shown .caption").inner_text().startswith("A cat & <its> whiskers")
    )
    page.keyboard.press("ArrowRight")
    assert shown(gallery) == 1, "after the last comes the first"
    gallery.locator(".thumbs button").nth(2).click()
    assert shown(gallery) == 3
    assert gallery.locator("[aria-current]").get_attribute("aria-label").startswith("Show 3 of 3")
    swipe(page, gallery.locator(".slide.shown .stage"), (0.3, 0.5), (0.7, 0.5))
    assert shown(gallery) == 2
    swipe(page, gallery.locator(".slide.shown img-comparison-slider"), (0.3, 0.5), (0.7, 0.5))
    assert shown(gallery) == 2, "a finger on the slider moves the divider only"


def test_the_gallery_is_one_tab_stop_beside_the_slider_in_it(visit, address):
    page = visit(address, width=800)
    gallery = page.frame_locator("iframe.colorlib").nth(2).locator(".gallery")
    gallery.scroll_into_view_if_needed()
    gallery.locator("[aria-current]").focus()

    def pressed(key):
        """The element of the gallery that has the focus after a key."""
        page.keyboard.press(key)
        return gallery.locator(":focus").evaluate_all("found => found.map(e => e.localName)")

    assert pressed("Tab") == [] and pressed("Shift+Tab") == ["button"]
    assert pressed("Shift+Tab") == [], "a photo without a slider"
    assert pressed("Tab") == ["button"] and pressed("ArrowRight") == ["button"]
    assert pressed("Shift+Tab") == ["img-comparison-slider"] and pressed("Shift+Tab") == []


@pytest.mark.slow
def test_a_contrast_theme_shows_choice_and_focus(visit, address):
    page = visit(address, forced_colors="active")
    slider, frame = slider_in(page, 5), page.frame_locator("iframe.colorlib").nth(5)
    chosen, other = (edge(frame.locator(".versions span").nth(index)) for index in (0, 1))
    assert chosen != other
    before = edge(slider)
    slider.press("ArrowLeft")
    assert edge(slider) != before
    thumbs = page.frame_locator("iframe.colorlib").nth(2).locator(".thumbs img")
    thumbs.first.scroll_into_view_if_needed()
    assert edge(thumbs.nth(0)) not in (edge(thumbs.nth(1)), edge(thumbs.nth(2)))


def edge(element):
    """The color in the middle of an element's left edge, 1 px inside."""
    shot = Image.open(io.BytesIO(element.screenshot())).convert("RGB")
    return shot.getpixel((1, shot.height // 2))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_everything_fits_the_page_undistorted(visit, address, width):
    page = visit(address, width=width)
    for index in (0, 1, 2, 5):
        frame = page.frame_locator("iframe.colorlib").nth(index).locator("body")
        outer = page.locator("iframe.colorlib").nth(index).bounding_box()
        assert outer["x"] >= 0 and outer["x"] + outer["width"] <= width
        assert outer["height"] == pytest.approx(frame.bounding_box()["height"], abs=1.5)
        overflow = "e => e.ownerDocument.documentElement.scrollWidth - e.ownerDocument.defaultView"
        assert frame.evaluate(overflow + ".innerWidth") <= 0
        for image in frame.locator("figure:not([hidden]) img, .fit > img").all():
            natural, drawn = image.evaluate(
                "e => [e.naturalWidth / e.naturalHeight, e.clientWidth / e.clientHeight]"
            )
            assert drawn == pytest.approx(natural, rel=0.02)


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """JupyterLab as `make lab` starts it: its address and its folder."""
    folder = tmp_path_factory.mktemp("lab")
    makefile = (figures.ROOT / "Makefile").read_text()
    uploads = shlex.split(re.search(r"^UPLOADS = (.*)", makefile, re.MULTILINE)[1])
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = os.environ | {f"JUPYTER_{name}": str(folder / name) for name in folders}
    environment["PYTHONPATH"] = str(figures.ROOT)  # Kernels import this clone.
    del environment["TF_CPP_MIN_LOG_LEVEL"]  # The tests' own: a reader's kernel has it not.
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
        + ["--ip=127.0.0.1", "--IdentityProvider.token=secret", "--ServerApp.root_dir=."]
        + ["--LabApp.extension_manager=readonly", "--LabApp.news_url=None"]
        + ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *uploads],
        cwd=folder,
        env=environment | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield url_of(server, folder / "RUNTIME_DIR"), folder
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def jupyterlab(browser, lab, name, opened):
    """A page of JupyterLab in which all cells of a notebook run, and the folder that it is in."""
    address, folder = lab[0], lab[1] / name
    folder.mkdir()
    nbformat.write(opened, folder / "cells.ipynb")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(180_000)
    page.goto(f"{address}lab/workspaces/{name}/tree/{name}/cells.ipynb?token=secret")
    page.locator(".jp-Notebook .jp-CodeCell").first.click()
    # Before the kernel is there, JupyterLab takes a cell's run for a question: which kernel?
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    try:
        yield page, folder
    finally:  # The kernel would keep its memory.
        token = {"Authorization": "token secret"}
        for session in page.request.get(f"{address}api/sessions", headers=token).json():
            page.request.delete(f"{address}api/sessions/{session['id']}", headers=token)
        page.close()


@pytest.mark.slow
def test_jupyterlab_slides_takes_uploads_and_gives_back_the_colored_files(
    browser, lab, tmp_path, sample
):
    noise = np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), "uint8")
    large = tmp_path / "large.png"
    Image.fromarray(noise).save(large)
    assert large.stat().st_size > 12e6
    source = "from colorlib.widgets import color_files\ncolor_files(flower, 'out/colored')"
    with jupyterlab(browser, lab, "files", notebook(COMPARE, source)) as (page, folder):
        page.locator("iframe.colorlib").first.wait_for()
        assert_slides(page, slider_in(page))
        link = page.get_by_role("link", name=FLOWER, exact=True)
        link.wait_for()
        with page.expect_download() as download:
            link.click()
        colored = (folder / "out" / "colored" / FLOWER).read_bytes()
        assert download.value.path().read_bytes() == colored
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Your photos").click()
        chooser.value.set_files([sample[0], large])
        link = page.get_by_role("link", name="colored.zip, all 2")
        link.wait_for()
        with page.expect_download() as download:
            link.click()
        with zipfile.ZipFile(download.value.path()) as file:
            assert sorted(file.namelist()) == sorted([sample[0].name, large.name])
            for name in file.namelist():
                assert file.read(name) == (folder / "out" / "colored" / name).read_bytes()
        gallery = page.frame_locator("iframe.colorlib").last.locator(".gallery")
        assert gallery.locator("img-comparison-slider").count() == 2


@pytest.mark.slow
def test_jupyterlab_runs_a_notebook_whose_explorer_colors_and_saves_a_photo(
    browser, lab, tmp_path, sample
):
    """04 up to its explorer, and the other widgets below; test_pages runs every notebook whole."""
    opened = smoke_notebook(figures.ROOT / "notebooks" / "04_historical_photos.ipynb")
    codes = [cell for cell in opened.cells if cell.cell_type == "code"][:3]
    assert any("explorer(" in cell.source for cell in codes), "near the top"
    codes += [nbformat.v4.new_code_cell(source) for source in (SETUP, VERSIONS, COMPARE)]
    opened.cells = codes
    large = tmp_path / "large.jpg"
    with Image.open(sample[0]) as photo:
        photo.convert("RGB").resize((4000, 3000)).save(large)
    with jupyterlab(browser, lab, "historical", opened) as (page, folder):
        # The notebook as it is saved: of a long one only the part in sight is on the page.
        file = folder / "cells.ipynb"
        outputs = executed(page, file, len(codes))
        assert [one for one in outputs if one.get("name") == "stderr"] == []
        assert len(frames_seen(page)) == 3
        page.locator(".jp-Notebook .jp-WindowedPanel-outer").evaluate("e => e.scrollTo(0, 0)")
        page.locator(".jp-Notebook .jp-CodeCell").first.scroll_into_view_if_needed()
        upload = page.get_by_role("button", name="Your photo (")
        upload.scroll_into_view_if_needed()
        explorer = page.locator(".jp-OutputArea").filter(has=upload)
        frame = explorer.frame_locator("iframe.colorlib")
        frame.locator("img-comparison-slider.rendered").wait_for()
        page.evaluate(
            """() => new MutationObserver(() => {
                window.told ||= document.body.innerText.includes("Coloring …");
            }).observe(document.body, { subtree: true, childList: true, characterData: true })"""
        )
        started = time.monotonic()
        with page.expect_file_chooser() as chooser:
            upload.click()
        chooser.value.set_files(large)
        frame.get_by_label("gray or pyramid: large.jpg").wait_for()
        assert page.evaluate("window.told") or time.monotonic() - started < 3
        page.get_by_role("button", name="Save the result").click()
        page.get_by_text("Saved as").wait_for()
        assert photos.read(folder / "large_colored.jpg").shape == (3000, 4000, 3)
        assert says_machine_made(folder / "large_colored.jpg")


def smoke_notebook(path):
    """A notebook with the parameters of the profile smoke; what it writes stays beside it."""
    opened = nbformat.read(path, 4)
    (cell,) = [cell for cell in opened.cells if "parameters" in cell.metadata.get("tags", [])]
    given = run.PROFILES["smoke"][path.stem]
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    cell.source += "\nfrom pathlib import Path\nfrom notebooks import figures\n"
    cell.source += "figures.ROOT = Path.cwd()"
    return opened


def frames_seen(page):
    """The titles of the widgets with a slider that a reader sees who scrolls from top to bottom."""
    seen = {}
    notebook = page.locator(".jp-Notebook .jp-WindowedPanel-outer")
    notebook.evaluate("e => e.scrollTo(0, 0)")
    while True:
        page.wait_for_timeout(300)  # Only the part in sight is on the page.
        for frame in page.locator("iframe.colorlib").all():
            frame.content_frame.locator("img-comparison-slider.rendered").first.wait_for()
            seen[frame.get_attribute("srcdoc")] = frame.is_visible()
        at = notebook.evaluate("e => { const old = e.scrollTop; e.scrollBy(0, 600); return old; }")
        if at == notebook.evaluate("e => e.scrollTop"):
            return [frame for frame, visible in seen.items() if visible]


def executed(page, file, count):
    """The outputs of a notebook's code cells, once all of them have run."""
    for _ in range(1200):
        page.keyboard.press("Control+s")
        page.wait_for_timeout(500)
        try:
            cells = json.loads(file.read_text("utf-8"))["cells"]
        except ValueError:  # It is being written.
            continue
        codes = [cell for cell in cells if "outputs" in cell]
        outputs = [output for cell in codes for output in cell["outputs"]]
        failed = [output["evalue"] for output in outputs if output["output_type"] == "error"]
        assert not failed, failed[0]
        if all(cell["execution_count"] for cell in codes) and len(codes) == count:
            return outputs
    raise AssertionError("the notebook did not finish in ten minutes")


def url_of(server, folder):
    for _ in range(600):
        for file in folder.glob(f"jpserver-{server.pid}.json"):
            return json.loads(file.read_text())["url"]
        assert server.poll() is None, "JupyterLab did not start"
        time.sleep(0.2)
    raise AssertionError("JupyterLab did not start within two minutes")


@pytest.mark.slow
@pytest.mark.parametrize("frame", [3, 4])
def test_explorer_leaves_a_live_slider_in_an_export(visit, address, frame):
    page = visit(address)
    slider = slider_in(page, frame)
    assert slider.get_attribute("aria-label").startswith("gray or ")
    assert look(page, slider, 0.4) == "gray"
    slider.press("End")
    assert position(slider) == 100 and look(page, slider, 0.6) == "gray"
    # The runner's has the line; that of a page with the widgets' state gives way to the widgets.
    assert page.get_by_text("The controls of this cell work while").count() == 1


class Recorder:
    """Stands in for the display that a running notebook updates."""

    def __init__(self):
        self.pages = []

    def update(self, page):
        self.pages.append(page.html)


@pytest.fixture
def displayed(monkeypatch, colorizers):
    """Shows an explorer as a notebook does; gives it and the pages that it has shown since."""

    monkeypatch.setattr(widgets, "_colorizer", colorizers)  # as it keeps them, for all tests

    def display(paths, names):
        recorder = Recorder()
        monkeypatch.setattr(widgets, "display", lambda *_, **__: recorder)
        explorer = widgets.explorer(paths, names)
        explorer._ipython_display_()
        return explorer, recorder.pages

    return display


def test_explorer_has_a_vividness_where_the_preset_has_one(displayed, sample):
    explorer, pages = displayed(sample[:2], ["pyramid", "paper"])
    slider = explorer.vividness
    default = presets.load_card("pyramid")["vividness"]
    assert not slider.disabled and slider.value == pytest.approx(default)
    slider.value = 1.0
    assert len(pages) == 2 and pages[0] != pages[1], "moving the slider colors anew, once"
    explorer.preset.value = "paper"
    assert slider.disabled and len(pages) == 3
    explorer.photo.value = explorer.photo.options[1][1]
    assert len(pages) == 4 and explorer.status.value == ""
    explorer.preset.value = "pyramid"
    assert not slider.disabled and slider.value == pytest.approx(default) and len(pages) == 5


def upload(widget, **contents):
    now = {"type": "image/jpeg", "last_modified": datetime.now(UTC)}
    widget.upload.value = [
        now | {"name": name, "size": len(content), "content": content}
        for name, content in contents.items()
    ]


def says_machine_made(path):
    """Whether the file itself says so, in IPTC's words, and names the program and preset."""
    content = path.read_bytes()
    made_by = f"colorlib {colorlib.__version__}, preset pyramid".encode()
    return b"DigitalSourceType" in content and made_by in content


def test_explorer_saves_what_it_shows(displayed, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer, pages = displayed(sample[:1], ["pyramid"])
    upload(explorer, **{"mine.JPG": sample[1].read_bytes()})
    assert explorer.photo.value.name == "mine.JPG"
    explorer.vividness.value = 0.25
    explorer.save.click()
    target = tmp_path / "mine_colored.JPG"
    assert explorer.status.value == f"Saved as {target}"
    expected = widgets._colorizer("pyramid").colorize(sample[1], 0.25)
    saved = photos.read(target)
    assert saved.shape == expected.shape and says_machine_made(target)
    assert np.abs(saved.astype(float) - expected).mean() < 3, "but for JPEG"

    upload(explorer, **{"mine.JPG": sample[2].read_bytes()})
    assert len(set(pages)) == 4, "the same name with another content is shown anew"
    target.unlink()
    target.mkdir()
    explorer.save.click()
    assert explorer.status.value.startswith(f"<b>{target}: could not be written")


def test_an_error_clears_the_picture_of_the_explorer(displayed, sample):
    explorer, pages = displayed(sample[:1], ["pyramid"])
    assert pages[-1] != "" and not explorer.save.disabled
    upload(explorer, **{"broken.png": b"no photo"})
    assert pages[-1] == "" and explorer.save.disabled
    assert explorer.status.value.startswith("<b>") and "broken.png" in explorer.status.value
    explorer.photo.value = sample[0]
    assert pages[-1] == pages[0] and not explorer.save.disabled and explorer.status.value == ""


@pytest.fixture
def box(tmp_path, sample):
    """A folder with two photos, of one name in two folders, and one that is broken."""
    box = tmp_path / "box"
    (box / "trip").mkdir(parents=True)
    with Image.open(sample[0]) as image:
        image.resize((90, 60)).save(box / "a.jpg", exif=exif_of("Ann"))
        image.resize((61, 93)).save(box / "trip" / "a.jpg")
    (box / "broken.jpg").write_text("no photo <b>")
    return box


def exif_of(artist):
    exif = Image.Exif()
    exif[315] = artist
    return exif


@pytest.fixture
def color_files(tmp_path, monkeypatch):
    """`color_files` as a notebook shows it, which stands in tmp_path; and the pages shown."""

    def color(source, **options):
        recorder = Recorder()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(widgets, "display", lambda *_, **__: recorder)
        shown = widgets.color_files(source, tmp_path / "out" / "of it", **options)
        shown._ipython_display_()
        return shown, recorder.pages

    return color


def links(page):
    return re.findall(r'<a href="([^"]+)" download>([^<]+)</a>', page)


def test_a_folders_photos_are_colored_shown_and_offered(color_files, box, tmp_path, capsys):
    shown, (page,) = color_files(box)
    out = tmp_path / "out" / "of it"
    assert links(page) == [
        ("out/of%20it.zip", "of it.zip, all 2"),
        ("out/of%20it/a.jpg", "a.jpg"),
        ("out/of%20it/trip/a.jpg", "trip/a.jpg"),
    ]
    assert page.count("&lt;img-comparison-slider ") == 2 and shown.status.value == ""
    (line,) = re.findall(r"<p [^>]*>([^<]*broken[^<]*)</p>", page)
    assert line.startswith(f"{box / 'broken.jpg'}: not a photo")
    # The very files that the command writes.
    assert main(["colorize", str(box), "--output", str(tmp_path / "command")]) == 1
    for name, shape in [("a.jpg", (60, 90, 3)), ("trip/a.jpg", (93, 61, 3))]:
        colored, other = (photos.read(folder / name) for folder in (out, tmp_path / "command"))
        assert colored.shape == shape and says_machine_made(out / name)
        assert np.abs(colored.astype(float) - other).mean() < 0.5
    with Image.open(out / "a.jpg") as image:
        assert image.getexif()[315] == "Ann"
    with zipfile.ZipFile(out.with_name("of it.zip")) as file:
        assert sorted(file.namelist()) == ["a.jpg", "trip/a.jpg"]
        assert file.read("a.jpg") == (out / "a.jpg").read_bytes()

    before = (out / "a.jpg").stat().st_mtime_ns
    assert color_files(box)[1] == [page] and (out / "a.jpg").stat().st_mtime_ns == before
    color_files(box, vividness=1.0)
    assert (out / "a.jpg").stat().st_mtime_ns > before


def test_uploads_are_colored_and_bad_ones_get_a_line(color_files, box, tmp_path):
    shown, pages = color_files(box / "a.jpg")
    assert 'title="Gallery"' not in pages[0] and [text for _, text in links(pages[0])] == ["a.jpg"]
    files = {"b c.jpg": (box / "a.jpg").read_bytes(), "bad.tif": b"text", "notes.txt": b""}
    upload(shown, **files)
    assert [href for href, _ in links(pages[1])] == ["out/of%20it/b%20c.jpg"]
    assert all(len(re.findall(f"/{name}: not a photo", pages[1])) == 1 for name in list(files)[1:])
    upload(shown, **{"a.png": files["b c.jpg"], "a.gif": files["b c.jpg"]})
    assert shown.status.value.startswith("<b>") and "would both become" in shown.status.value
    assert len(pages) == 2
    upload(shown, **{"last.jpg": files["b c.jpg"]})
    assert [text for _, text in links(pages[2])] == ["last.jpg"] and shown.status.value == ""


def test_a_run_that_goes_on_colors_with_its_new_weights(color_files, small_run, box, tmp_path):
    run, out = shutil.copytree(small_run, tmp_path / "run"), tmp_path / "out" / "of it"
    shown, _ = color_files(box / "a.jpg", preset=run)
    before = (out / "a.jpg").read_bytes()
    with h5py.File(run / presets.WEIGHTS, "r+") as file:  # as if trained on
        for name in ("layers/conv2d/vars/0", "layers/conv2d/vars/1"):
            file[name][...] *= -1
    color_files(box / "a.jpg", preset=run)
    assert (out / "a.jpg").read_bytes() != before
    upload(shown, **{"b.jpg": (box / "a.jpg").read_bytes()})
    assert np.array_equal(photos.read(out / "a.jpg"), photos.read(out / "b.jpg"))
    for settings in pd.read_parquet(out / "colorlib.parquet")["settings"]:
        assert json.loads(settings)["weights_sha256"] == sha256(run / presets.WEIGHTS)


def test_a_zip_of_somebody_elses_stays(color_files, box, tmp_path):
    theirs = tmp_path / "out" / "of it.zip"
    theirs.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(theirs, "w") as file:
        file.writestr("letter.txt", "their only copy")
    before = theirs.read_bytes()
    for _ in range(2):
        _, (page,) = color_files(box)
        assert links(page)[0] == ("out/of%20it-2.zip", "of it-2.zip, all 2")
    assert theirs.read_bytes() == before


def test_a_page_names_the_colored_files_without_links(color_files, box, monkeypatch):
    monkeypatch.setenv("COLORLIB_OUTPUT", "out")
    _, (page,) = color_files(box)
    assert links(page) == [] and "<li>of it.zip, all 2 (" in page and "in the output folder" in page


def test_sixteen_bit_photos_look_like_eight_bit_ones():
    rgb = photos.as_rgb(photos.packaged("sample")["path"][0])
    eight = widgets.compare(rgb, rgb)._repr_html_()
    assert widgets.compare(rgb.astype("uint16") * 257, rgb)._repr_html_() == eight


def test_large_photos_are_bounded():
    wide = np.random.default_rng(0).integers(0, 255, (1500, 6000, 3), "uint8")
    image = widgets.compare(wide, wide)._repr_html_()
    assert len(image) < 2_000_000 and "aspect-ratio:1280/320" in image


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda a, b: widgets.compare(a, b), "differ in shape.*crop one like the other"),
        (lambda a, b: widgets.compare(a), "needs two photos"),
        (lambda a, b: widgets.compare({"one": a}), "needs two photos"),
        (lambda a, b: widgets.compare(a, a, labels=("one",)), "1 labels for two photos"),
        (lambda a, b: widgets.gallery([(a, a, a)]), "needs two photos"),
        (lambda a, b: widgets.gallery([]), "no photo is given"),
        (lambda a, b: widgets.gallery([a, b], titles=["one"]), "1 titles for 2 items"),
    ],
)
def test_wrong_use_says_what_to_do(act, message):
    with pytest.raises(colorlib.ColorlibError, match=message):
        act(np.zeros((30, 40, 3), "uint8"), np.zeros((40, 30, 3), "uint8"))
