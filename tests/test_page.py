"""The page that colors photos in the browser gives the library's colors, and asks nobody."""

import re
import zipfile
from base64 import b64decode

import numpy as np
import pytest
from conftest import served
from PIL import Image

from colorlib import lab, photos
from colorlib.embedding import class_names
from colorlib.metadata import MACHINE_COLORED
from colorlib.model import ab_bins
from notebooks import run

pytestmark = pytest.mark.slow

COLORED = """async ([address, preset, vividness]) => {
  const { Photo } = await import("./_static/color/engine.js");
  const photo = await Photo.open(await (await fetch(address)).blob());
  const image = await photo.ask("color", { preset, vividness });
  await photo.close();
  const blob = new Blob([image.data]), reader = new FileReader();
  await new Promise((done) => { reader.onload = done; reader.readAsDataURL(blob); });
  return [image.width, image.height, reader.result.split(",")[1]];
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory, sample):
    """The pages without a notebook, with the networks, and photos to fetch."""
    from notebooks import page

    folder = tmp_path_factory.mktemp("page")
    (folder / "results.json").write_text("{}")
    (folder / "figures").mkdir()
    assert run.build_pages(folder, folder / "site")
    page.add(folder / "site")
    (folder / "site" / "photos").symlink_to(sample[0].parent)
    return folder / "site"


class Opened:
    """color.html in a browser, with what was asked of the server and what went wrong."""

    def __init__(self, page, home):
        self.page, self.home, self.asked, self.wrong = page, home, [], []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self.hear)
        page.goto(f"{home}color.html")
        page.wait_for_selector("#drop:enabled")

    def hear(self, message):
        if message.type in ("error", "warning") and "favicon" not in message.location["url"]:
            self.wrong.append(message.text)

    def choose(self, *paths):
        self.page.set_input_files("#drop input[multiple]", paths)
        self.wait_for(f"{paths[0].name}, ")

    def wait_for(self, text):
        self.page.wait_for_function(
            "text => document.querySelector('#status').textContent.startsWith(text)", arg=text
        )

    def save(self, button):
        with self.page.expect_download() as download:
            self.page.click(button)
        return download.value


@pytest.fixture(scope="module")
def opened(site, browser):
    with served(site) as home:
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.set_default_timeout(240_000)
        yield Opened(context.new_page(), home)


@pytest.mark.parametrize("preset", ["pyramid", "paper"])
def test_photos_get_the_colors_of_the_library(preset, opened, sample, colorizers):
    for path in sample[:10] if preset == "pyramid" else sample[:3]:
        for vividness in (0, 0.5, 1) if preset == "pyramid" else (None,):
            asked = [f"photos/{path.name}", preset, vividness]
            width, height, data = opened.page.evaluate(COLORED, asked)
            rgba = np.frombuffer(b64decode(data), np.uint8).reshape(height, width, 4)
            wanted = colorizers(preset).colorize(path, vividness)
            assert rgba.shape[:2] == wanted.shape[:2]
            error = np.abs(rgba[..., :3].astype(int) - wanted)
            assert np.percentile(error, 99) <= 2, (path.name, vividness)


def test_a_photo_is_colored_and_saved_without_a_connection(opened, sample, colorizers, tmp_path):
    page, upright = opened.page, tmp_path / "upright.jpg"
    exif = Image.Exif()
    exif[0x112] = 6
    with Image.open(sample[0]) as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(upright, quality=95, exif=exif)
    opened.choose(sample[1])
    page.context.set_offline(True)
    before = len(opened.asked)
    opened.choose(upright)
    page.locator("#knob input").fill("0.3")
    for button, suffix in (("#jpeg", ".jpg"), ("#png", ".png")):
        file = tmp_path / f"saved{suffix}"
        download = opened.save(button)
        assert download.suggested_filename == f"upright_colored{suffix}"
        download.save_as(file)
        saved = photos.load(file)
        assert MACHINE_COLORED.encode() in saved.metadata.xmp
        assert b'CreatorTool="colorlib ' in saved.metadata.xmp
        assert b"preset pyramid, vividness 0.3" in saved.metadata.xmp
        wanted = colorizers("pyramid").colorize(upright, 0.3)
        assert saved.rgb.shape == wanted.shape
        if suffix == ".png":
            assert np.percentile(np.abs(saved.rgb.astype(int) - wanted), 99) <= 2
    page.context.set_offline(False)
    assert [url for url in opened.asked[before:] if not url.startswith("blob:")] == []


def test_several_photos_come_in_a_zip_and_a_broken_one_gets_a_line(opened, sample, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    opened.choose(sample[2], broken, sample[3])
    download = opened.save("#all")
    opened.wait_for("2 of 3 photos")
    with zipfile.ZipFile(download.path()) as file:
        assert file.testzip() is None
        assert file.namelist() == [f"{path.stem}_colored.jpg" for path in (sample[2], sample[3])]
        for path in (sample[2], sample[3]):
            rgb = photos.load(file.read(f"{path.stem}_colored.jpg")).rgb
            assert rgb.shape == photos.read(path).shape
    lines = opened.page.locator("#problems li").all_inner_texts()
    assert len(lines) == 1 and lines[0].startswith("broken.jpg: can't be read")


def test_a_pixel_tells_its_distribution_by_mouse_and_keyboard(opened, sample, colorizers):
    page, text = opened.page, "#pixel [aria-live]"
    opened.choose(sample[4])
    page.locator("#knob input").fill("0")
    page.wait_for_function(f"document.querySelector('{text}').textContent.includes('0.00')")
    page.locator("#pixel canvas").press("ArrowLeft")
    page.wait_for_timeout(1000)
    told = page.inner_text(text).replace("\N{MINUS SIGN}", "-")
    _, mean, truth = np.array(re.findall(r"a (-?\d+), b (-?\d+)", told), float)
    rgb = photos.read(sample[4])
    shares = colorizers("pyramid").distribution(lab.lightness(rgb))
    place = shares[shares.shape[0] // 2, int(0.48 * shares.shape[1])]
    assert np.allclose(mean, place @ ab_bins(), atol=1)
    pixel = rgb[rgb.shape[0] // 2, int(0.48 * rgb.shape[1])] / np.float32(255)
    assert np.allclose(truth, lab.rgb_to_lab(pixel)[1:], atol=1.5)


def test_the_swapped_embedding_shows_its_classes_and_changes_the_colors(opened, site, colorizers):
    page = opened.page
    page.click("#swap .start")
    page.wait_for_selector(".three:not([hidden])")
    address = page.get_attribute("#samples button:nth-child(2)", "data-photo")
    plane = lab.lightness(photos.read(site / address))
    logits = colorizers("paper").embedder(plane)[0]
    names = [class_names()[i][1].replace("_", " ") for i in np.argsort(-logits)[:5]]
    listed = page.locator(".three figure:nth-child(3) li").all_inner_texts()
    assert [re.sub(r" \d+ %$", "", line) for line in listed] == names
    pictures = page.evaluate(
        "[...document.querySelectorAll('.three canvas')].map((canvas) => canvas.toDataURL())"
    )
    assert len(set(pictures)) == 3


def test_nothing_went_wrong_and_no_other_host_was_asked(opened):
    assert opened.wrong == []
    assert [url for url in opened.asked if not url.startswith((opened.home, "blob:"))] == []


def test_a_page_opened_as_a_file_says_why_it_cannot_color(site, browser):
    page = browser.new_page()
    page.goto((site / "color.html").as_uri())
    assert page.locator("live-knob img").count() == 2
    assert "serve the site" in page.inner_text("#obstacle")
    assert not page.locator("#drop").is_visible()
    page.close()
