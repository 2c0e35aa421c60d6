"""Every notebook as the runner runs it, headlessly, and the pages made of them, in a browser."""

import json
import re
import shlex
import zipfile
from urllib.parse import urlsplit

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import serious, served
from PIL import Image

from colorlib import presets
from colorlib.__main__ import _parser
from colorlib.config import TrainingConfig
from notebooks import figures, run
from study.analysis import d_prime, d_prime_interval

NOTEBOOKS = {
    path.stem: f"{folder}/{path.name}"
    for folder in run.FOLDERS
    for path in (figures.ROOT / folder).glob("*.ipynb")
}
PAGES = ["index", "made", "quiz", "search", *NOTEBOOKS]

# Names of rows that lie over one another once a table is scrolled to its end.
OVERLAPPING = """() => [...document.querySelectorAll("table.dataframe")].flatMap((table) => {
  for (let e = table; e !== document.body; e = e.parentElement) e.scrollLeft = e.scrollWidth;
  const names = [...table.querySelectorAll("tbody th")].map((e) => [e, e.getBoundingClientRect()]);
  return names.filter(([, a], i) => names.slice(0, i).some(([, b]) => a.left < b.right - 2
    && b.left < a.right - 2 && a.top < b.bottom - 2 && b.top < a.bottom - 2));
}).map(([e]) => e.textContent)"""

# A frame is transparent, which axe can't see through.
OPAQUE = """document.body.style.background = "";
document.body.style.background = getComputedStyle(top.document.body).background"""

# All notebooks are executed once, which takes ten minutes on slow cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_every_notebook_runs_and_has_a_page(smoke):
    records = json.loads((smoke / "results.json").read_text())
    assert sorted(records) == sorted(NOTEBOOKS)
    index = (smoke / "site" / "index.html").read_text()
    for stem in NOTEBOOKS:
        assert records[stem]["result"] == "ok"
        assert f'href="{stem}.html"' in index
        page = (smoke / "site" / f"{stem}.html").read_text()
        assert re.search(r'<img[^>]+alt="[^"]{10,}', page), f"{stem}: no picture with a description"
        cells = json.loads((smoke / f"{stem}.ipynb").read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", ())]
        assert [output for output in outputs if output.get("name") == "stderr"] == []
        assert "<code>\\" not in page, "mathematics that can't be set"
        if stem == "03_results":
            html = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
            assert sum('class="colorlib"' in text for text in html) == 2, "its comparisons"


def test_styles_ask_for_nothing_that_is_not_there(smoke):
    styles = list((smoke / "site" / "_static").rglob("*.css"))
    found = {
        (path.name, address)
        for path in styles
        for address in re.findall(r"url\(['\"]?([^'\")]+)", path.read_text("utf-8"))
        if not address.startswith(("data:", "#")) and not (path.parent / address).exists()
    }
    assert len(styles) > 3 and found == set()


def test_a_folder_of_photos_is_colored_whatever_else_is_in_it(sample, smoke):
    names = sorted(photo.name for photo in sample[:2])
    assert sorted(path.name for path in (smoke / "colored").glob("*.jpg")) == names
    with zipfile.ZipFile(smoke / "colored.zip") as file:
        assert sorted(file.namelist()) == names
    text = (smoke / "04_historical_photos.ipynb").read_text()
    assert text.count(f"{smoke.parent / 'photos' / 'broken.jpg'}: not a photo") == 1


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


@pytest.fixture(scope="module")
def home(smoke):
    """The address of the pages."""
    with served(smoke / "site") as home:
        yield home


@pytest.fixture
def visit(home, browser):
    """A function that opens a page on a phone; other hosts and errors fail the test.

    Its `asked` holds the paths of all that the pages asked for.
    """
    context, wrong, asked = None, [], set()

    def visit(name, **options):
        nonlocal context
        if context is None:
            options = {"viewport": {"width": 390, "height": 844}} | options
            context = browser.new_context(**options)
            context.set_default_timeout(120_000)
            context.route(re.compile("^https?:"), judge)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", hear)
        page.goto(f"{home}{name}")
        page.wait_for_load_state("networkidle")
        return page

    def hear(message):
        if message.type == "error":
            wrong.append(f"{message.text} {message.location['url']}")

    def judge(route):
        url = route.request.url
        if not url.startswith(home):
            wrong.append(url)
            return route.abort()
        asked.add(urlsplit(url).path[1:])
        return route.continue_()

    visit.asked = asked
    yield visit
    if context:
        context.close()
    assert wrong == []


def scroll(page):
    """To the end, so that everything is loaded."""
    height = page.evaluate("document.documentElement.scrollHeight")
    for top in range(0, height, 800):
        page.evaluate(f"scrollTo(0, {top})")
        page.wait_for_timeout(30)
    page.wait_for_load_state("networkidle")


def test_every_page_fits_a_phone_and_keeps_nobody_out(visit, smoke):
    """A picture on the first screen, no wider than a phone, light to load, and axe is content."""

    def size():
        return sum((smoke / "site" / path).stat().st_size for path in visit.asked)

    found = {}
    for name in PAGES:
        page = visit(f"{name}.html", color_scheme="light")
        if name in NOTEBOOKS or name == "index":
            first = "iframe.colorlib" if name == "index" else "article img"
            box = page.locator(first).first.bounding_box()
            assert box["y"] + box["height"] < 844, name
        scroll(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert page.evaluate(OVERLAPPING) == [], name
        if name == "index":  # the first
            assert size() <= 1_000_000
        # What fades from one color to the other has neither while axe looks.
        page.add_style_tag(content="* { transition: none !important }")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")
            for number, frame in enumerate(page.frames):
                frame.evaluate(OPAQUE)
                if faults := serious(frame):
                    found[name, scheme, number] = faults
        page.close()
    assert found == {}
    assert size() <= 15_000_000  # what several pages ask for is loaded once


def test_code_folds_and_the_switch_is_remembered(visit):
    page = visit("01_data.html")
    code = page.locator("div.cell_input").first
    assert not code.is_visible()
    page.get_by_role("button", name="Show code").click()
    assert code.is_visible()
    other = visit("03_results.html")
    assert other.locator("div.cell_input").first.is_visible()
    switch = other.get_by_role("button", name="Show code")
    assert switch.get_attribute("aria-pressed") == "true"
    switch.click()
    other.reload()
    assert not other.locator("div.cell_input").first.is_visible()
    # One cell alone, by the link under its figure.
    other.locator("figure.picture .links a", has_text="code").first.click()
    assert other.locator("div.cell_input:visible").count() == 1


def test_a_picture_enlarges_and_leads_to_its_record(visit):
    page = visit("03_results.html")
    first = page.locator("figure.picture").first
    first.locator("a.enlarge").click()
    shown = page.locator("dialog.enlarged img")
    shown.wait_for()  # It comes from the server.
    assert shown.get_attribute("alt")
    page.keyboard.press("Escape")
    assert not shown.is_visible()
    first.locator(".links a", has_text="manifest").click()
    page.wait_for_url(re.compile(r"made\.html#"))
    name = page.url.rpartition("#")[2]
    assert page.locator(f"#{name}").is_visible()


def test_a_comparison_moves_inside_its_frame(visit):
    page = visit("04_historical_photos.html")
    scroll(page)
    slider = page.frame_locator("iframe.colorlib").first.locator("img-comparison-slider")
    slider.first.focus()
    page.keyboard.press("Home")
    assert slider.first.get_attribute("aria-valuenow") == "0"


def test_search_finds(visit):
    visit("search.html?q=gamut").wait_for_selector("#search-results li")


def test_without_scripts_code_folds_and_photos_are_seen(visit):
    page = visit("03_results.html", java_script_enabled=False)
    assert not page.locator("div.cell_input").first.is_visible()
    page.locator("details.above-input summary").first.click()
    assert page.locator("div.cell_input").first.is_visible()
    assert page.locator("figure.picture img").first.is_visible()


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_figures_are_numbered_and_say_where_they_come_from(smoke, stem):
    page = BeautifulSoup((smoke / "site" / f"{stem}.html").read_text("utf-8"), "html.parser")
    captions = [caption.get_text(" ", strip=True) for caption in page.select("figure figcaption")]
    assert captions and page.select("figure.picture")
    numbers = [re.match(r"Figure (\d+)\. \w.{10,}", caption) for caption in captions]
    assert [int(number[1]) for number in numbers] == list(range(1, len(captions) + 1))
    made = BeautifulSoup((smoke / "site" / "made.html").read_text("utf-8"), "html.parser")
    for figure in page.select("figure.picture"):
        code, record = figure.select(".links a")
        assert page.select_one(code["href"]).select_one(".cell_input")
        assert made.select_one("#" + record["href"].rpartition("#")[2])
        assert (smoke / "site" / figure.a["href"]).is_file()


def test_the_front_page_says_what_the_scores_say(smoke):
    page = BeautifulSoup((smoke / "site" / "index.html").read_text("utf-8"), "html.parser")
    assert len(page.select("table.found tr:has(td)")) == 8
    for body in page.select("table.found tbody"):
        name = body.select_one("th small").get_text()
        for row in body.select("tr:has(td)"):
            preset = row.code.get_text()
            scores = pd.read_parquet(presets.preset_folder(preset) / presets.SCORES)
            scores = scores[(scores["set"] == name) & ~scores["near_gray"]].set_index("method")
            assert body.th.get_text().startswith(str(len(scores.loc["model"])))
            pooled = scores.groupby(level=0)[["ab_sse", "n_pixels"]].sum()
            error = (pooled["ab_sse"] / pooled["n_pixels"]) ** 0.5
            percent = 100 * (error["model"] / error.drop("model").min() - 1)
            shown = re.match(r"([\d.]+) % (below|above)", row.b.get_text())
            assert float(shown[1]) == pytest.approx(abs(percent), abs=0.051)
            assert shown[2] == ("below" if percent < 0 else "above")
            interval = row.small.get_text()
            low, high = map(float, re.findall(r"[\d.]+", interval))
            if "below" in interval:
                low, high = (-low, high) if "above" in interval else (-high, -low)
            assert low - 0.051 <= percent <= high + 0.051
            assert ("no clear difference" in interval) == (low < 0 < high)
            color = scores.loc["model", ["colorfulness", "truth_colorfulness"]].mean()
            ratio = 100 * color["colorfulness"] / color["truth_colorfulness"]
            assert float(row.select("td")[-1].get_text().split()[0]) == pytest.approx(
                ratio, abs=0.51
            )


def test_a_preview_names_the_picture_where_the_address_is_known(smoke, monkeypatch, tmp_path):
    page = (smoke / "site" / "index.html").read_text("utf-8")
    assert "og:image" not in page
    output = tmp_path / "out"
    output.mkdir()
    records = json.loads((smoke / "results.json").read_text("utf-8"))
    (output / "results.json").write_text(json.dumps({"03_results": records["03_results"]}))
    (output / "03_results.ipynb").symlink_to(smoke / "03_results.ipynb")
    (output / "figures").symlink_to(smoke / "figures")
    monkeypatch.setenv("SITE_URL", "https://example.org/koala")
    assert run.build_pages(output, output / "site")
    page = BeautifulSoup((output / "site" / "index.html").read_text("utf-8"), "html.parser")
    image = page.select_one('meta[property="og:image"]')["content"]
    assert image.startswith("https://example.org/koala/figures/")
    assert (output / "site" / image.removeprefix("https://example.org/koala/")).is_file()


def answered(page, choose):
    """The quiz, gone through: `choose` answers, given the name of the photo's file."""
    page.locator(".quiz-photo img").wait_for()
    for number in range(1, 13):
        page.get_by_text(f"Photo {number} of 12").wait_for()
        page.wait_for_timeout(250)
        choose(page.locator(".quiz-photo img").get_attribute("src").rpartition("/")[2])
    page.get_by_role("heading", name="of 12 right").wait_for()


@pytest.fixture(scope="module")
def colored(smoke):
    photos = json.loads((smoke / "site" / "quiz" / "photos.json").read_text("utf-8"))["photos"]
    assert sum(photo["colored"] for photo in photos) == 6 and len(photos) == 12
    return {photo["file"]: photo["colored"] for photo in photos}


def test_the_quiz_says_what_the_answers_come_to_and_stores_nothing(visit, colored):
    page = visit("quiz.html")
    asked, kept = [], "JSON.stringify([{...localStorage}, {...sessionStorage}])"
    page.on("request", lambda request: asked.append(request.url))
    stored = page.evaluate(kept)
    page.get_by_role("button", name="Start").click()
    answered(page, lambda file: page.keyboard.press("f" if colored[file] else "r"))
    assert page.get_by_role("heading", name="12 of 12 right").is_visible()
    (d, _), (low, high) = d_prime(6, 6, 0, 6), d_prime_interval(6, 6, 0, 6)
    row = page.get_by_role("row").filter(has_text="d′")
    assert row.locator("td").all_inner_texts() == [f"{d:.1f}", f"{low:.1f} to {high:.1f}"]
    assert page.locator(".quiz-right").count() == 12
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Once more").click()
    real, fake = (page.locator(".quiz-answers button").nth(index) for index in (0, 1))
    answered(page, lambda file: (real if colored[file] else fake).click())
    assert page.get_by_text("100 % (6 of 6)").is_visible()
    assert page.locator(".quiz-wrong").count() == 12
    assert asked == [] and page.evaluate(kept) == stored and page.context.cookies() == []


def test_keys_of_the_quiz_answer_only_where_the_focus_is(visit):
    page = visit("quiz.html")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("Photo 1 of 12").wait_for()
    page.wait_for_timeout(250)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("r")
    assert page.get_by_text("Photo 1 of 12").is_visible()
    page.locator(".quiz-photo img").click()
    page.keyboard.press("r")
    page.get_by_text("Photo 2 of 12").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_quiz(visit, scheme):
    page = visit("quiz.html", color_scheme=scheme)
    page.get_by_role("button", name="Start").click()
    assert serious(page) == []
    answered(page, lambda file: page.keyboard.press("f"))
    assert page.locator(".quiz-right, .quiz-wrong").count() == 12
    assert serious(page) == []
    planted = "<img><p style='color: #777; background: #888'>hardly seen</p>"
    page.evaluate(
        "html => document.querySelector('main').insertAdjacentHTML('beforeend', html)", planted
    )
    assert {rule for _, rule, _ in serious(page)} == {"image-alt", "color-contrast"}


def test_the_quiz_is_light_and_reveals_nothing_by_its_files(smoke, colored):
    files = [smoke / "site" / "quiz" / name for name in colored]
    assert sum(file.stat().st_size for file in files) < 600_000
    assert all(re.fullmatch(r"[0-9a-f]{16}\.jpg", name) for name in colored)
    for file in files:
        with Image.open(file) as photo:
            assert (
                max(photo.size) <= 512 and not photo.getexif() and "icc_profile" not in photo.info
            )


def test_the_quiz_without_scripts_says_so(visit):
    page = visit("quiz.html", java_script_enabled=False)
    assert page.get_by_text("scripts are switched on").is_visible()
    assert not page.get_by_role("button", name="Start").is_visible()
