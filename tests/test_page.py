"""The page that colors photos in the browser gives the library's colors, and asks nobody."""

import io
import re
import statistics
import struct
import time
import zipfile
from base64 import b64decode

import numpy as np
import pytest
from conftest import NO_SHEETS, serious, served, swipe
from PIL import ExifTags, Image, ImageCms, IptcImagePlugin, PngImagePlugin

from colorlib import lab, photos
from colorlib.__main__ import main
from colorlib.embedding import class_names
from colorlib.metadata import MACHINE_COLORED, Metadata
from colorlib.model import ab_bins
from notebooks import run

pytestmark = pytest.mark.slow

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="uuid:1" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' tiff:Orientation="6" xmp:CreatorTool="Scanner 3"'
    ' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"'
    " xmlns:hdrgm='http://ns.adobe.com/hdr-gain-map/1.0/'>"
    "<hdrgm:Version>1.0</hdrgm:Version><dc:creator><rdf:Seq>"
    "<rdf:li>Zoë &amp; Ida</rdf:li></rdf:Seq></dc:creator><xmp:Rating>4</xmp:Rating>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
).encode()
COLORED = """async ([address, preset, knob]) => {
  const { Photo } = await import("./_static/color/engine.js");
  const photo = await Photo.open(await (await fetch(address)).blob()), versions = [];
  for (const vividness of knob) {
    const image = await photo.ask("color", { preset, vividness });
    const blob = new Blob([image.data]), reader = new FileReader();
    await new Promise((done) => { reader.onload = done; reader.readAsDataURL(blob); });
    versions.push([image.width, image.height, reader.result.split(",")[1]]);
  }
  await photo.close();
  return versions;
}"""

# Keeps what the page says in its status.
SAID = """window.said = [];
document.addEventListener("DOMContentLoaded", () => {
  const status = document.getElementById("status");
  const hear = () => window.said.push(status.textContent);
  new MutationObserver(hear).observe(status, { childList: true });
});"""
WITHOUT_FROM_IMAGE = """
const decode = self.createImageBitmap;
self.createImageBitmap = (picture, options) => options?.imageOrientation === "from-image"
  ? Promise.reject(new TypeError("not a valid enum value")) : decode(picture, options ?? {});"""
WITH_NOISE = """
const prototype = OffscreenCanvasRenderingContext2D.prototype, read = prototype.getImageData;
prototype.getImageData = function (...place) {
  const image = read.apply(this, place);
  image.data.forEach((value, i) => { image.data[i] = value ^ 1; });
  return image;
};"""
QUICK_TICKS = """
const every = self.setInterval;
self.setInterval = (work, ms) => every(work, ms / 100);"""
COUNTED = """loadAndCompile(bytes, { accelerator: "wasm" }).then((made) => {
  const gone = made.delete.bind(made);
  self.alive = (self.alive ?? 0) + 1;
  made.delete = () => { self.alive--; gone(); };
  return made;
})"""
# Drops entries that are read, or fail, when `window.read()` is called.
DROP = """(entries) => {
  const event = new Event("drop"), wait = new Promise((done) => { window.read = done; });
  const items = entries.map(([name, error]) => ({ webkitGetAsEntry: () => ({
    name, isFile: true, file: (give, fail) => wait.then(() =>
      error ? fail(new Error(error)) : give(new File(["no photo"], name))),
  }) }));
  document.dispatchEvent(Object.assign(event, { dataTransfer: { items, files: [] } }));
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


@pytest.fixture
def changed(opened, browser):
    """Opens color.html once more, with some of its scripts changed: {name: new text of the old}."""
    contexts = []

    def serve(change):
        def handle(route):
            answer = route.fetch()
            route.fulfill(response=answer, body=change(answer.text()))

        return handle

    def changed(scripts=(), routes=(), **options):
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(60_000)
        page = contexts[-1].new_page()
        for name, change in dict(scripts).items():
            page.route(f"**/color/{name}.js", serve(change))
        for pattern, handle in dict(routes).items():
            page.route(pattern, handle)
        page.add_init_script(SAID)
        return Opened(page, opened.home)

    yield changed
    for context in contexts:
        context.close()


def in_worker(script):
    """A change by which the worker runs a script before it does anything."""
    return {"worker": lambda text: text + script}


def stall(route):
    """Leaves a request without an answer."""


def cut(route):
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.body()[: len(answer.body()) // 2])


@pytest.mark.parametrize("preset", ["pyramid", "paper"])
def test_photos_get_the_colors_of_the_library(preset, opened, sample, colorizers):
    some = [sample[n] for n in (0, 1, 2, 4, 7)]  # in five of the working shapes
    for path in some if preset == "pyramid" else some[:3]:
        knob = (0, 0.5, 1) if preset == "pyramid" else (None,)
        versions = opened.page.evaluate(COLORED, [f"photos/{path.name}", preset, knob])
        for vividness, (width, height, data) in zip(knob, versions, strict=True):
            rgba = np.frombuffer(b64decode(data), np.uint8).reshape(height, width, 4)
            wanted = colorizers(preset).colorize(path, vividness)
            assert rgba.shape[:2] == wanted.shape[:2]
            error = np.abs(rgba[..., :3].astype(int) - wanted)
            assert np.percentile(error, 99) <= 2, (path.name, vividness)
            assert error.max() <= 32, "a pixel of another color"


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
    moved = """() => {
      const knob = document.querySelector("#knob input"), before = knob.value;
      document.querySelector("#all").click();
      knob.value = 0;
      return [before, document.querySelector("#all").disabled];
    }"""
    with opened.page.expect_download() as waiting:
        before, disabled = opened.page.evaluate(moved)
    assert disabled and float(before) > 0
    download = waiting.value
    opened.wait_for("2 of 3 photos")
    opened.page.evaluate(
        "value => { document.querySelector('#knob input').value = value; }", before
    )
    with zipfile.ZipFile(download.path()) as file:
        assert file.testzip() is None
        assert file.namelist() == [f"{path.stem}_colored.jpg" for path in (sample[2], sample[3])]
        for path in (sample[2], sample[3]):
            photo = photos.load(file.read(f"{path.stem}_colored.jpg"))
            assert photo.rgb.shape == photos.read(path).shape
            # As the knob stood at the click.
            assert f"vividness {float(before):g}," in photo.metadata.xmp.decode()
    lines = opened.page.locator("#problems li").all_inner_texts()
    assert len(lines) == 1 and lines[0].startswith("broken.jpg: can't be read")


def test_what_is_too_large_says_so(opened, tmp_path):
    """Beyond its limit a canvas stays empty, and says nothing."""
    Image.new("L", (70_000, 20), 140).save(tmp_path / "long.png")
    opened.page.set_input_files("#drop input[multiple]", tmp_path / "long.png")
    opened.page.get_by_text("long.png: is too large for this browser").wait_for()


def test_what_fails_once_is_tried_again_and_saves_what_is_shown(opened, browser, sample):
    page = browser.new_page()
    page.set_default_timeout(240_000)
    page.route("**/worker.js", lambda route: route.abort(), times=1)
    page.goto(f"{opened.home}color.html")
    page.wait_for_selector("#drop:enabled")
    fresh = Opened.__new__(Opened)
    fresh.page = page
    page.set_input_files("#drop input[multiple]", sample[0])
    page.locator("#problems li").first.wait_for()
    fresh.choose(sample[0])  # by a new worker
    page.route("**/networks/*", lambda route: route.abort())
    page.locator("[name=preset][value=paper]").check(force=True)
    page.set_input_files("#drop input[multiple]", sample[1])
    page.get_by_text(f"{sample[1].name}: ").wait_for()
    page.locator("[name=preset][value=pyramid]").check(force=True)
    assert fresh.save("#jpeg").suggested_filename == f"{sample[1].stem}_colored.jpg"
    page.close()


def test_a_pixel_tells_its_distribution_by_mouse_and_keyboard(opened, sample, colorizers):
    page, text = opened.page, "#pixel [aria-live]"
    opened.choose(sample[4])
    page.locator("#knob input").fill("0")
    page.wait_for_function(f"document.querySelector('{text}').textContent.includes('0.00')")
    before = page.inner_text(text)
    page.get_by_role("application").press("ArrowLeft")
    page.wait_for_function(
        f"before => document.querySelector('{text}').textContent !== before", arg=before
    )
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
    assert page.locator("#swap .thumbs button").first.evaluate("e => e === document.activeElement")
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


@pytest.mark.parametrize("script", [WITHOUT_FROM_IMAGE, WITH_NOISE], ids=["old", "brave"])
def test_browsers_with_ways_of_their_own_open_photos(changed, tmp_path, script):
    turned = Image.Exif()
    turned[0x112] = 6
    Image.new("L", (90, 60), 140).save(tmp_path / "turned.jpg", exif=turned)
    other = changed(in_worker(script))
    other.choose(tmp_path / "turned.jpg")
    assert other.page.inner_text("#status") == "turned.jpg, 60 × 90"
    assert other.wrong == []


def captions(page):
    return page.locator("#knob figcaption").all_text_contents()


def test_while_a_download_stalls_all_else_goes_on(changed, sample):
    other = changed(routes={"**/networks/paper*": stall})
    page, text = other.page, "#pixel [aria-live]"
    other.choose(sample[0])
    assert captions(page) == ["gray", "pyramid"]
    page.locator("[name=preset][value=paper]").check(force=True)
    other.wait_for("Fetching")
    page.set_input_files("#drop input[multiple]", sample[1])
    page.wait_for_function(
        "[...document.querySelectorAll('#knob figcaption')].every((e) => e.textContent === 'gray')"
    )
    page.locator("[name=preset][value=pyramid]").check(force=True)
    page.wait_for_function("document.querySelector('#knob').textContent.includes('pyramid')")
    page.locator("#knob input").fill("0")
    page.wait_for_function(f"document.querySelector('{text}').textContent.includes('0.00')")
    assert other.save("#jpeg").suggested_filename == f"{sample[1].stem}_colored.jpg"
    assert page.locator("#problems li").count() == 0


def test_a_stalled_download_ends_with_a_line_and_is_tried_again(changed, sample):
    other = changed(in_worker(QUICK_TICKS), {"**/networks/pyramid*.tflite": stall})
    other.page.set_input_files("#drop input[multiple]", sample[0])
    line = f"{sample[0].name}: The download has stalled"
    other.page.get_by_text(line).wait_for()
    assert other.page.inner_text("#status") == ""
    assert captions(other.page) == ["gray", "gray"]
    other.page.unroute("**/networks/pyramid*.tflite")
    other.choose(sample[0])
    assert captions(other.page) == ["gray", "pyramid"]
    assert other.page.locator("#problems li").count() == 0


def test_a_download_is_announced_now_and_then_and_no_more_once_it_failed(changed, sample):
    other = changed(routes={"**/networks/paper*.tflite": cut})
    page = other.page
    page.locator("[name=preset][value=paper]").check(force=True)
    page.get_by_text("cut short").wait_for()
    page.wait_for_function("said.length && said.at(-1) === ''")
    assert page.inner_text("#knob .note") == ""
    page.locator("[name=preset][value=pyramid]").check(force=True)
    page.wait_for_function("document.querySelector('#knob canvas')")
    page.evaluate("said.length = 0")
    page.unroute("**/networks/paper*.tflite")
    page.locator("[name=preset][value=paper]").check(force=True)
    page.wait_for_function("document.querySelector('#knob').textContent.includes('none: ')")
    page.wait_for_function("said.length && said.at(-1) === ''")
    assert 1 < len(page.evaluate("said")) <= 12
    assert page.locator("#problems li").count() == 0


def test_what_was_asked_for_earlier_does_not_replace_a_later_photo(changed, sample):
    held = []
    other = changed(
        routes={"**/samples/people_python3_astronaut.jpg": lambda route: held.append(route)}
    )
    page = other.page
    page.get_by_label("an astronaut").click()
    page.evaluate(DROP, [["late.jpg", None]])
    other.choose(sample[0])
    page.evaluate("read()")
    with page.expect_event("requestfinished"):
        held[0].continue_()
    # What they would have asked the worker for is answered before this.
    page.evaluate("""async () => {
      const { Photo } = await import("./_static/color/engine.js");
      const address = document.querySelector("#samples button:nth-child(2)").dataset.photo;
      await (await Photo.open(await (await fetch(address)).blob())).close();
    }""")
    assert page.inner_text("#status").startswith(f"{sample[0].name}, ")
    assert not [line for line in page.evaluate("said") if "late" in line or "astronaut" in line]
    assert page.locator("#problems li").count() == 0


def test_a_line_stands_until_the_next_thing_is_asked_for(changed, sample, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    missing = {"**/samples/people_python3_astronaut.jpg": lambda route: route.fulfill(status=404)}
    other = changed(routes=missing)
    page, lines = other.page, other.page.locator("#problems li")
    other.choose(sample[0], tmp_path / "broken.jpg")
    for _ in range(2):
        page.locator("#row button", has_text="broken").click()
        page.get_by_text("broken.jpg: can't be read").wait_for()
        assert lines.count() == 1
    page.locator("#row button").first.click()
    other.wait_for(f"{sample[0].name}, ")
    assert lines.count() == 0
    page.get_by_label("an astronaut").click()
    page.get_by_text("people_python3_astronaut.jpg: 404").wait_for()
    page.evaluate(DROP, [["locked.jpg", "may not be read"], ["letter.txt", None]])
    page.evaluate("read()")
    page.get_by_text("There is no photo among these files.").wait_for()
    assert lines.all_inner_texts()[0] == "locked.jpg: may not be read"
    assert lines.count() == 2


def test_a_zip_that_would_grow_too_large_becomes_several(changed, sample):
    script = {"save": lambda text: text.replace("4_000_000_000", "1000")}
    other, downloads = changed(script), []
    other.choose(sample[2], sample[3])
    other.page.on("download", lambda download: downloads.append(download))
    with other.page.expect_download(lambda one: one.suggested_filename == "colored-2.zip"):
        other.page.click("#all")
    other.wait_for("2 of 2 photos are in colored.zip, colored-2.zip")
    for download, path in zip(downloads, (sample[2], sample[3]), strict=True):
        with zipfile.ZipFile(download.path()) as file:
            assert file.testzip() is None and file.namelist() == [f"{path.stem}_colored.jpg"]
    # Without the change, where a zip's numbers end.
    sizes = other.page.evaluate("""async () => {
      const { portions } = await import("./_static/color/save.js?as-it-is");
      const files = (count, size) => Array.from({ length: count }, () => ({ blob: { size } }));
      const counts = (all) => [...portions(all)].map((portion) => portion.length);
      return [files(5, 1.5e9), files(66_000, 1)].map(counts);
    }""")
    assert sizes == [[2, 2, 1], [65_000, 1000]]


def test_what_is_in_no_zip_is_not_said_to_be(changed, sample, tmp_path):
    broken = [tmp_path / "one.jpg", tmp_path / "two.jpg"]
    for path in broken:
        path.write_bytes(b"no photo")
    other = changed()
    page = other.page
    page.set_input_files("#drop input[multiple]", broken)
    page.get_by_text("one.jpg: can't").wait_for()
    page.click("#all")
    page.get_by_text("two.jpg: can't").wait_for()
    page.wait_for_selector("#all:enabled")
    assert page.inner_text("#status") == ""
    other.choose(sample[2], sample[3])
    page.evaluate("() => { URL.createObjectURL = () => { throw new RangeError('no memory'); }; }")
    page.click("#all")
    page.get_by_text("The zip can't be made: no memory").wait_for()
    page.wait_for_selector("#all:enabled")
    assert page.inner_text("#status") == "" and other.wrong == []


def test_compiled_networks_are_freed(changed, sample):
    old = 'loadAndCompile(bytes, { accelerator: "wasm" })'
    other = changed({"networks": lambda text: text.replace(old, COUNTED)})
    some = [f"photos/{sample[n].name}" for n in (0, 1, 2, 4, 7, 0)]  # in five of the working shapes
    colored = [other.page.evaluate(COLORED, [address, "pyramid", [0]]) for address in some]
    assert other.page.workers[0].evaluate("self.alive") == 2
    assert colored[0] == colored[-1]
    for address in some[:2]:
        other.page.evaluate(COLORED, [address, "paper", [None]])
        assert other.page.workers[0].evaluate("self.alive") == 2


def test_the_divider_takes_keys_and_leaves_scrolling_fingers_alone(changed):
    page = changed(has_touch=True, viewport={"width": 390, "height": 844}).page
    slider = page.locator("#knob img-comparison-slider")
    slider.scroll_into_view_if_needed()
    keys = {"ArrowRight": 55, "PageDown": 45, "Alt+ArrowLeft": 45, "End": 100, "Home": 0}
    for key, value in keys.items():
        slider.press(key)
        assert slider.evaluate("e => e.value") == value, key
        assert slider.get_attribute("aria-valuetext") == f"{value} % gray"
    swipe(page, slider, (0.5, 0.5), (0.7, 0.5))
    assert slider.evaluate("e => e.value") == pytest.approx(70, abs=2)
    swipe(page, slider, (0.3, 0.9), (0.35, 0.2))
    assert slider.evaluate("e => e.value") == pytest.approx(70, abs=2), "a finger that scrolls"


def test_a_pixel_is_told_aloud_once_the_knob_rests(changed, sample):
    other = changed()
    page, text, plane = (
        other.page,
        "#pixel [aria-live]",
        "document.querySelector('#pixel svg').innerHTML",
    )
    other.choose(sample[4])
    page.wait_for_function(f"document.querySelector('{text}').textContent")
    told, drawn = page.inner_text(text), page.evaluate(plane)
    page.evaluate(MOVED, 0)
    page.wait_for_function(f"before => {plane} !== before", arg=drawn)
    assert page.inner_text(text) == told
    page.locator("#knob input").dispatch_event("change")
    page.wait_for_function(f"document.querySelector('{text}').textContent.includes('0.00')")


def exif():
    """A block as a camera writes it: turned, with a thumbnail at its end."""
    block, picture = Image.Exif(), io.BytesIO()
    block[0x10F], block[0x112], block[0x13B] = "Leica", 6, "Zoë".encode()
    block[0x11A], block[0x11B], block[0x128] = 300.0, 300.0, 2
    details = {0x9003: "1938:07:01 12:00:00", 0x829D: 5.6, 0x9286: b"ASCII\0\0\0porch"}
    block[0x8769] = details | {0xA001: 0xFFFF, 0xA002: 300, 0xA003: 200}
    block[0x8825] = {1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (16.0, 22.0, 0.0)}
    Image.new("RGB", (32, 24), "red").save(picture, "JPEG")
    data = bytearray(block.tobytes().removeprefix(b"Exif\0\0"))
    start = int.from_bytes(data[4:8], "big")
    following = start + 2 + 12 * int.from_bytes(data[start : start + 2], "big")
    data[following : following + 4] = len(data).to_bytes(4, "big")
    rows = [(0x201, 4, 1, len(data) + 30), (0x202, 4, 1, picture.tell())]
    data += (2).to_bytes(2, "big")
    data += b"".join(struct.pack(">HHLL", *row) for row in rows) + bytes(4)
    return b"Exif\0\0" + bytes(data) + picture.getvalue()


def originals(folder, source):
    """A turned photo with all that a file may say, in the formats of which the page keeps it."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "Porch")
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    common = {"exif": exif(), "icc_profile": profile}
    with Image.open(source) as picture:
        picture = picture.convert("RGB").resize((300, 200))
        picture.save(folder / "full-jpeg.jpg", quality=95, xmp=XMP, dpi=(300, 300), **common)
        picture.save(folder / "full-png.png", pnginfo=texts, dpi=(300, 300), **common)
        picture.save(folder / "full-webp.webp", quality=95, xmp=XMP, **common)
        picture.save(folder / "resolution.png", dpi=(240, 240))  # a resolution alone
        picture.save(folder / "damaged.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")  # damaged
    # Pillow writes no IPTC.
    photo = photos.load(folder / "full-jpeg.jpg")
    photos.write(folder / "iptc.jpg", photo.rgb, metadata=Metadata(iptc=b"\x1c\x02\x50\0\x03Ida"))
    return sorted(folder.iterdir())


FIRST = (0x10F, 0x112, 0x13B, 0x11A, 0x11B, 0x128)
DETAILS = (0x9003, 0x829D, 0x9286, 0xA001, 0xA002, 0xA003)


def said(path, with_exif):
    """What a file says beside its pixels."""
    photo = photos.load(path)
    with Image.open(path) as picture:
        block, icc, texts = picture.getexif(), picture.info["icc_profile"], picture.info
        iptc = IptcImagePlugin.getiptcinfo(picture)
    xmp = photo.metadata.xmp.decode()
    exif = {
        "first": [block.get(tag) for tag in FIRST],
        "details": [block.get_ifd(ExifTags.IFD.Exif).get(tag) for tag in DETAILS],
        "place": [block.get_ifd(ExifTags.IFD.GPSInfo).get(tag) for tag in range(1, 5)],
        "thumbnail": dict(block.get_ifd(ExifTags.IFD.IFD1)),
    }
    return {
        "exif": exif if with_exif else block.get(0x112, 1),
        "dpi": photo.metadata.dpi and [round(value) for value in photo.metadata.dpi],
        "icc": icc,
        "title": texts.get("Title"),
        "iptc": iptc,
        "xmp": [name in xmp for name in ("Zoë &amp; Ida", "Rating>4<", "Scanner", "Orientation")],
        "parts": [name in xmp for name in ("MotionPhoto", "hdrgm:Version")],
        "marks": [xmp.count(name) for name in ("CreatorTool", MACHINE_COLORED, 'about="uuid:1"')],
        "size": photo.rgb.shape,
    }


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_saved_file_says_what_the_commands_file_says(opened, sample, tmp_path, suffix):
    for path in originals(tmp_path, sample[0]):
        opened.choose(path)
        files = [tmp_path / f"{path.stem}-{maker}.{suffix}" for maker in ("page", "command")]
        opened.save("#jpeg" if suffix == "jpg" else "#png").save_as(files[0])
        assert main(["colorize", str(path), "--output", str(files[1])]) == 0
        of_page, of_command = (said(file, path.stem.startswith("full")) for file in files)
        assert of_page == of_command, path.name
        content = files[0].read_bytes()
        assert b"JFIF" not in content[100:], "a thumbnail"
        assert (b"porch" in content) == (path.stem.startswith("full"))


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
def test_axe_finds_nothing_serious_in_any_state(opened, sample, tmp_path, scheme, width):
    page, broken = opened.page, tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    page.reload()
    page.wait_for_selector("#drop:enabled")
    page.add_style_tag(content="* { transition: none !important; }")  # else it sees half a color

    def check():
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    check()
    opened.choose(sample[4])
    page.wait_for_selector("#pixel rect")
    check()
    opened.choose(sample[2], broken, sample[3])
    page.locator("#row button", has_text="broken").click()
    page.wait_for_selector("#problems li")
    check()
    page.get_by_label("paper (2017)").check()
    page.wait_for_function("document.querySelector('#knob').textContent.includes('none: ')")
    page.click("#swap .start")
    page.wait_for_selector(".three:not([hidden])")
    check()


MOVED = """(value) => new Promise((done) => {
  const knob = document.getElementById("knob"), range = knob.querySelector("input");
  const start = performance.now();
  knob.addEventListener("colored", () => done(performance.now() - start), { once: true });
  range.value = value;
  range.dispatchEvent(new Event("input"));
})"""


def test_a_large_photo_and_the_knob_are_quick(opened, sample, tmp_path):
    """On two cores that do nothing else: 4 s and 0.1 s. Here others may be at work, too."""
    for name, size in {"large": (4000, 3000), "one": (1200, 833)}.items():
        with Image.open(sample[0]) as picture:
            picture.convert("RGB").resize(size).save(tmp_path / f"{name}.jpg", quality=90)
    opened.choose(tmp_path / "one.jpg")  # fetches the network
    moves = [opened.page.evaluate(MOVED, value / 20) for value in range(20)]
    move = statistics.median(moves[5:])
    opened.page.evaluate("document.querySelector('#status').textContent = ''")
    start = time.monotonic()
    opened.choose(tmp_path / "large.jpg")
    seconds = time.monotonic() - start
    saving = time.monotonic()
    opened.save("#jpeg")
    saving = time.monotonic() - saving
    print(f"12 megapixels in {seconds:.2f} s, saved in {saving:.2f} s, a move in {move:.0f} ms")
    assert seconds < 3 * 4 and move < 3 * 100


def test_nothing_went_wrong_and_no_other_host_was_asked(opened):
    assert opened.wrong == []
    assert [url for url in opened.asked if not url.startswith((opened.home, "blob:"))] == []


def test_a_page_opened_as_a_file_says_why_it_cannot_color(site, browser):
    page = browser.new_page()
    page.goto((site / "color.html").as_uri())
    assert page.locator("live-knob img").count() == 2
    assert "serve the site" in page.inner_text("#obstacle")
    assert not page.locator("#drop").is_visible()
    assert serious(page) == []
    page.close()


OLD = "delete window.OffscreenCanvas; delete window.DecompressionStream;"


def test_an_old_browser_compares_what_was_colored_beforehand(opened, browser):
    """Safari before 16.4, in which the slider hid its photos."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.add_init_script(OLD + NO_SHEETS)
    page.goto(f"{opened.home}color.html")
    note = page.get_by_text("Above is a photo that was colored beforehand")
    note.wait_for()
    slider = page.locator("live-knob img-comparison-slider.rendered")
    slider.click(position={"x": 0.1 * slider.bounding_box()["width"], "y": 5})
    page.wait_for_function("document.querySelector('[role=slider]').ariaValueNow === '10'")
    below = note.bounding_box()["y"]
    for photo in slider.locator("img").all():
        box = photo.bounding_box()
        assert box["width"] > 300 and box["y"] + box["height"] <= below
    page.close()


def test_photos_are_seen_where_the_slider_never_comes(opened, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.route("**/img-comparison-slider/index.js", lambda route: route.abort())
    page.goto(f"{opened.home}color.html")
    page.locator("live-knob .stage figure").first.wait_for()
    boxes = [photo.bounding_box() for photo in page.locator("live-knob img:visible").all()]
    assert len(boxes) == 2 and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    page.close()


def pixels(element):
    """The grays of a page or an element, as they are on the screen."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("L"), float)


STYLE = "(e, name) => getComputedStyle(e)[name]"


def test_a_contrast_theme_shows_icons_choice_and_focus(opened, browser, sample):
    page = browser.new_page(forced_colors="active", viewport={"width": 390, "height": 844})
    page.goto(f"{opened.home}color.html")
    page.wait_for_selector("#drop:enabled")
    icons = page.locator(":is(.fa-solid, .fas):visible").all()
    assert len(icons) > 3
    for icon in icons:
        assert np.ptp(pixels(icon)) > 128
    page.set_input_files("#drop input[multiple]", sample[:2])
    switch = '<button class="code-switch" aria-pressed="{}">Show code</button>'
    page.evaluate(
        "html => document.querySelector('#row').insertAdjacentHTML('afterend', html)",
        switch.format("true") + switch.format("false"),
    )
    for buttons in ("#row button", ".code-switch"):
        found = [
            page.locator(f"{buttons}[aria-pressed={pressed}]").evaluate(STYLE, "backgroundColor")
            for pressed in ("true", "false")
        ]
        assert len(set(found)) == 2, buttons
    slider = page.locator("live-knob img-comparison-slider")
    page.keyboard.press("Tab")
    slider.focus()
    assert slider.evaluate(STYLE, "outlineStyle") == "solid"
    page.close()


PICTURES = """<p><a class="enlarge" href="photos/{}"><img src="data:," alt="first"></a></p>
<p><a class="enlarge" href="never.jpg"><img src="data:," alt="second"></a></p>"""


def test_a_picture_is_not_shown_under_the_next_ones_name(opened, browser, sample):
    page = browser.new_page()

    def add(route):
        html = route.fetch().text()
        pictures = PICTURES.format(sample[0].name)
        route.fulfill(body=html.replace("<article", pictures + "<article", 1))

    page.route("**/made.html", add)
    page.route("**/never.jpg", lambda route: None)  # on its way for as long as the page is open
    page.goto(f"{opened.home}made.html", wait_until="domcontentloaded")
    page.get_by_alt_text("first").click()
    page.wait_for_function("document.querySelector('dialog.enlarged img').naturalWidth > 0")
    first = pixels(page)
    page.keyboard.press("Escape")
    page.get_by_alt_text("second").click()
    assert page.locator("dialog.enlarged img").get_attribute("alt") == "second"
    assert np.abs(pixels(page) - first).mean() > 20
    page.close()


def test_the_quiz_says_that_its_photos_did_not_come(opened, browser):
    page = browser.new_page()
    page.route("**/quiz/*.jpg", lambda route: route.abort())
    page.goto(f"{opened.home}quiz.html")
    page.get_by_text("could not be fetched").wait_for()
    assert not page.get_by_text("can't run from a file").is_visible()
    page.close()
