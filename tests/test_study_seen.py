"""What the survey measures is what somebody saw: trials, times and sizes a server can vouch for.

Who takes part through HTTP here is a script; who takes part in a browser is a person.
"""

import base64
import io
import time

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sqlalchemy", reason="pip install -e '.[study]'")

import test_study_browser as pages
from PIL import Image, ImageFile
from sqlalchemy import update
from survey_parts import an_answer, new_id, wait_for
from test_study_browser import (
    DESKTOP,
    PHONE,
    answered,
    click,
    go_on,
    go_through,
    press,
    ready,
    rows,
)

from study import careless
from study import protocol as protocols
from study.answers import read_export
from study.encoding import split_jpeg
from study.survey import store as tables
from study.survey.export import export
from study.survey.server import EVERY

pytestmark = pytest.mark.slow  # all of it: a minute or two
stimuli, serve, visit = pages.stimuli, pages.serve, pages.visit


def exported(study, folder):
    study.store.read(export, folder)
    return read_export(folder)


# The server as a witness


def test_a_trial_begins_at_the_server_and_each_time_is_counted(serve, tmp_path):
    study = serve()
    person = study.person()
    person.take_part(upto=0)
    early = person.post("/api/answers", an_answer(1))
    assert early.status_code == 409 and early.json()["error"] == "not_shown"
    assert person.show(3).json()["error"] == "not_due", "nobody sees photos beforehand"
    again = {"id": new_id(), "trial": 1}
    for _ in range(3):  # the reply may have got lost
        assert person.post("/api/presentations", again).status_code == 200
    person.show(1)
    time.sleep(0.3)
    assert person.post("/api/answers", an_answer(1)).status_code == 200
    assert person.show(1).json()["error"] == "answered", "what is judged is not seen again"
    person.answer(2)
    stranger = study.person()
    assert stranger.show(1).status_code == 401
    trials = exported(study, tmp_path / "export").trials.set_index("trial")
    assert list(trials["presentations"])[:2] == [2, 1] and np.isnan(trials["presentations"]["3"])
    assert 300 <= trials.loc["1", "server_ms"] < 10_000 and trials.loc["2", "server_ms"] < 3000
    assert np.isnan(trials.loc["3", "server_ms"])


def test_what_is_fetched_ahead_is_no_photo_until_the_rest_is_released(serve):
    study = serve()
    person = study.person()
    alike = []
    for trial in person.take_part(upto=0):
        number, (token,) = trial["trial"], trial["photos"]
        (row,) = [row for row in study.rows(tables.trials) if row.trial == number]
        file = study.survey.stimuli.read(row.stimulus)
        ahead = person.get(f"/image/{token}").content
        (withheld,) = person.show(number).json()["pieces"]
        person.answer(number)
        whole = bytearray(len(file))
        for start in range(EVERY):
            part = base64.b64decode(withheld) if start == 0 else ahead[start - 1 :: EVERY - 1]
            whole[start::EVERY] = part
        assert whole == file
        with pytest.raises(OSError):
            Image.open(io.BytesIO(ahead)).load()
        # The header is no secret. With zeros for what is withheld, little comes out.
        header = split_jpeg(file)[0]
        whole[::EVERY] = bytes(len(whole[::EVERY]))
        edges = [_edges(content) for content in (file, header + bytes(whole[len(header) :]))]
        alike.append(np.corrcoef(*edges)[0, 1])
    assert np.mean(alike) < 0.1, alike


def _edges(file):
    """The differences of neighboring pixels' grays, of whatever a decoder makes of a file."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        gray = np.asarray(Image.open(io.BytesIO(file)).convert("L"), float)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return np.diff(gray, axis=1).ravel()


def test_an_answer_to_a_thumbnail_is_not_taken(serve):
    person = serve(min_side_css=300).person()
    person.take_part(upto=0)
    small = person.answer(1, image_width_css=120.0)
    assert small.status_code == 422 and small.json()["error"] == "too_small"
    assert person.answer(1, image_width_css=0.0).status_code == 422, "an invisible one"
    assert person.answer(1, image_width_css=400.0).status_code == 200


def test_a_script_is_found_by_the_servers_clock_and_a_person_is_not(serve, tmp_path):
    """The script claims 812 ms an answer, and gets all its catch trials right."""
    rules = {"min_server_ms": 200, "max_answers_per_minute": 100, "min_total_s": 60}
    study = serve(scenes=8, **rules)
    for _ in range(2):
        person = study.person()
        person.take_part()
        assert person.post("/api/finish", {}).status_code == 200
    slow, script = (row.session for row in study.rows(tables.sessions))
    _slow_down(study, slow, seconds=6)
    kept = exported(study, tmp_path / "export")
    people, trials = (t.set_index("session") for t in (kept.participants, kept.trials))
    for flag in ("excluded_rate", "excluded_total"):
        assert people.loc[script, flag] == 1 and people.loc[slow, flag] == 0, flag
    assert (trials.loc[script, "excluded_server"] == 1).all()
    assert (trials.loc[slow, "excluded_server"] == 0).all()


def _slow_down(study, session, seconds):
    """Lets somebody have answered at a person's pace."""
    start = pd.Timestamp("2027-01-01T12:00:00", tz="UTC")

    def at(offset):
        text = (start + pd.Timedelta(seconds=offset)).strftime("%Y-%m-%dT%H:%M:%S.%f")
        return text[:-3] + "Z"

    trials = [row.trial for row in study.rows(tables.trials) if row.session == session]
    for trial in trials:
        for table, column, offset in (
            (tables.presentations, "released_at", seconds * trial),
            (tables.answers, "received_at", seconds * trial + 2),
        ):
            mine = (table.c.session == session) & (table.c.trial == trial)
            study.change(update(table).where(mine).values({column: at(offset)}))
    mine = tables.sessions.c.session == session
    times = {"started_at": at(0), "finished_at": at(seconds * len(trials) + 10)}
    study.change(update(tables.sessions).where(mine).values(times))


@pytest.mark.parametrize("name", ["balanced-yesno", "2afc-1s"])
def test_the_report_of_the_rules_says_who_passes_them(name):
    left = careless.report(protocols.load(name), people=30).set_index("behavior")["answers_left"]
    assert left["a person who looks"] > 0.9 and left["a quick person who looks"] > 0.9
    assert left["a script, at once, with forged times"] == left["hasty, at random"] == 0
    assert left["a script, calm, that finds the catch trials"] == 1, "and this is told"
    again = left["each photo looked at three times, by reloading"]
    assert again == (0 if name == "2afc-1s" else 1), "it matters where photos are timed"


def test_a_reload_during_the_exposure_leaves_a_mark(serve, visit, tmp_path):
    server = serve("2afc-1s", scenes=2, practice=0, catch=0, exposure_s=1.5, min_server_ms=2500)
    page = visit(server.address)
    answered_ready(page)
    go_on(page, click)
    page.locator("[data-screen=timed] .photo img").wait_for()
    page.reload()
    go_through(page, click)
    trials = exported(server, tmp_path / "export").trials
    assert list(trials["presentations"]) == [2, 1]
    assert list(trials["excluded_presentations"]) == [1, 0]
    assert (trials["server_ms"] > 3000).all()
    assert not trials["excluded_server"].any()


def answered_ready(page):
    """Goes on to the button that shows the first pair."""
    while page.locator("body").get_attribute("data-screen") != "ready":
        ready(page)
        if page.locator("body").get_attribute("data-screen") != "ready":
            go_on(page, click)


def test_time_behind_another_window_is_kept(serve, visit, tmp_path):
    server = serve(scenes=2, practice=0, catch=0)
    page = visit(server.address)
    answered(page, 0)
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    page.wait_for_timeout(500)
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    go_through(page, click)
    lost = [row["focus_lost_ms"] for row in rows(server)]
    assert 480 < lost[0] < 5000 and lost[1] == 0


# How photos are shown


def test_photos_come_ahead_one_by_one_from_the_instructions_on(serve, visit):
    server = serve(practice=0)
    context = visit("about:blank").context
    page = context.new_page()
    asked, done, together = [], [], []

    def begin(request):
        if "/image/" in request.url:
            asked.append(request.url)
            together.append(len(asked) - len(done))

    page.on("request", begin)
    page.on("requestfinished", lambda r: done.append(r) if "/image/" in r.url else None)
    page.goto(server.address)
    go_through(page, click, until="What to do")
    wait_for(lambda: page.wait_for_timeout(50) or len(done) == 3)
    page.wait_for_timeout(300)
    assert len(asked) == 3 and max(together) == 1
    plan = rows(server, "SELECT token FROM tokens ORDER BY trial")
    assert [url.rpartition("/")[2] for url in asked] == [row["token"] for row in plan[:3]]
    go_through(page, click)
    assert len(asked) == 5 and max(together) == 1, "each once"


def test_a_small_window_is_asked_to_grow_and_no_answer_is_taken(serve, visit):
    server = serve(practice=0)
    page = visit(server.address)
    answered(page, 1)
    wait_for(lambda: len(rows(server)) == 1)
    page.set_viewport_size({"width": 330, "height": 170})
    page.get_by_text("too small to be judged").wait_for()
    page.keyboard.press("r")
    page.keyboard.press("ArrowLeft")
    page.evaluate("document.querySelector('#stage button').focus()")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    assert len(rows(server)) == 1
    page.set_viewport_size(DESKTOP["viewport"])
    page.get_by_text("too small to be judged").wait_for(state="hidden")
    go_through(page, press)
    assert len(rows(server)) == 5
    assert all(row["image_width_css"] > 100 for row in rows(server))


def test_pairs_wait_for_a_window_that_is_large_enough(serve, visit):
    server = serve("2afc-1s", scenes=2, practice=0, catch=0, exposure_s=0.2, pause_s=0)
    page = visit(server.address)
    answered_ready(page)
    page.set_viewport_size({"width": 400, "height": 180})
    page.get_by_text("too small to be judged").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert not rows(server, "SELECT * FROM presentations")
    page.set_viewport_size(DESKTOP["viewport"])
    go_through(page, click)
    assert len(rows(server)) == 2


def test_the_protocol_limits_the_size_and_a_card_fixes_it(serve, visit):
    page = visit(serve(practice=0, max_side_css=300).address)
    answered(page, 0)
    assert photo_side(page) == pytest.approx(300, abs=1)


def photo_side(page):
    """The longer side of the photo as it is drawn, CSS px."""
    return page.locator("#stage .photo img").evaluate(
        "e => Math.max(e.naturalWidth, e.naturalHeight) *"
        " Math.min(e.clientWidth / e.naturalWidth, e.clientHeight / e.naturalHeight)"
    )


def test_a_card_that_is_held_to_the_screen_fixes_the_size(serve, visit):
    server = serve(practice=0, scenes=2, catch=0, side_mm=80.0)
    page = visit(server.address)
    go_through(page, click, until="The size of your screen")
    page.locator("input[type=range]").fill("270")
    assert page.locator(".card").bounding_box()["width"] == pytest.approx(270, abs=0.5)
    go_on(page, click)
    page.locator("#stage .photo img").wait_for()
    assert photo_side(page) == pytest.approx(80 * 270 / 53.98, abs=1)
    go_through(page, click)
    assert rows(server)[0]["px_per_mm"] == pytest.approx(270 / 53.98, abs=0.01)


def test_a_size_in_millimeters_below_the_least_in_pixels_is_no_dead_end(serve, visit):
    """No window was large enough, and the server took no answer."""
    server = serve(practice=0, scenes=2, catch=0, side_mm=30.0)
    page = visit(server.address)
    go_through(page, click)  # 30 mm are 113 px here
    first = rows(server)[0]
    assert first["image_width_css"] / first["px_per_mm"] <= 30.1
    assert len(rows(server)) == 2


@pytest.mark.parametrize("forced", ["none", "active"])
def test_the_surround_stays_gray_under_a_dark_scheme(serve, visit, forced):
    dark = DESKTOP | {"color_scheme": "dark", "forced_colors": forced}
    page = visit(serve(practice=0).address, dark)
    answered(page, 0)
    style = "(e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).colorScheme])"
    color, scheme = page.evaluate(f"{style}(document.body)")
    assert color == "rgb(241, 241, 241)", "neutral, and the same for everybody"
    assert set(scheme.split()) == {"only", "light"}


def test_a_button_shows_quotation_marks(serve, visit):
    """The text ended before the first one."""
    page = visit(serve(accept='Click to "begin"').address)
    page.get_by_role("button", name='Click to "begin"').wait_for()


def test_photos_are_not_translated_and_have_no_ring(serve, visit):
    server = serve("2afc-1s", scenes=2, practice=0, catch=0, exposure_s=0.8)
    page = visit(server.address)
    while page.locator("body").get_attribute("data-screen") != "ready":
        ready(page)
        if page.locator("body").get_attribute("data-screen") != "ready":
            go_on(page, press)
    page.keyboard.press("Space")
    photo = page.locator("[data-screen=timed] .photo")
    photo.locator("img").wait_for()
    assert photo.get_attribute("translate") == "no"
    ring = "() => { const e = document.activeElement; return getComputedStyle(e).outlineStyle; }"
    assert page.evaluate(ring) == "none"


# Pages that work where a browser refuses


NO_AUDIO = "window.AudioContext = class { constructor() { window.audio = true; } };"


def test_no_screen_leaves_an_audio_context(serve, visit, browser):
    server = serve(practice=0)
    context = visit("about:blank").context
    context.add_init_script(NO_AUDIO)
    page = context.new_page()
    page.goto(server.address)
    answered(page, 1)
    assert page.evaluate("window.audio") is None


DENIALS = {
    "locks": "navigator.locks.request = () =>"
    " Promise.reject(new DOMException('', 'SecurityError'))",
    "timeout": "delete AbortSignal.timeout; delete Array.prototype.at",  # iOS before 15.4
    "storage": "Object.defineProperty(window, 'localStorage',"
    " { get() { throw new DOMException('', 'SecurityError'); } })",
    "clipboard": "navigator.clipboard.writeText = () =>"
    " Promise.reject(new DOMException('', 'NotAllowedError'))",
}


def test_what_a_browser_denies_is_done_without(serve, visit):
    server = serve(scenes=2, practice=0, catch=0)
    page = visit("about:blank")
    for denial in DENIALS.values():
        page.context.add_init_script(denial)
    page.goto(server.address)
    go_through(page, click)
    assert len(rows(server)) == 2
    page.get_by_role("button", name="Copy the code").click()
    page.get_by_text("did not copy the code").wait_for()
    assert page.evaluate("getSelection().toString()") == page.locator("output").inner_text()


# Safari before 15.4, to which a dialog is any element. What belongs to no layer wins over this one.
NO_DIALOG = """
  const { prototype } = HTMLDialogElement;
  for (const name of ["showModal", "show", "close", "open"]) delete prototype[name];
  const plain = new CSSStyleSheet();
  plain.replaceSync("@layer browser { dialog { all: unset } }");
  document.adoptedStyleSheets = [plain];
"""


def test_safari_before_16_lets_people_decline(serve, visit):
    server = serve()
    page = visit("about:blank")
    page.context.add_init_script("delete HTMLFormElement.prototype.requestSubmit")
    page.goto(server.address)
    ready(page)
    page.locator("#decline").click()
    page.get_by_text("Nothing has been stored").wait_for()
    assert not rows(server, "SELECT * FROM sessions")


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_safari_before_15_4_lets_people_withdraw(serve, visit, device):
    server = serve(scenes=2, practice=0, catch=0)
    page = visit("about:blank", device)
    page.context.add_init_script(NO_DIALOG)
    page.goto(server.address)
    answered(page, 1)
    page.locator("#withdraw").click()
    page.locator("#withdraw").press("Enter")  # which nothing keeps from the keys
    dialog, back = page.get_by_role("dialog"), page.get_by_role("button", name="Go back")
    assert dialog.count() == 1
    box, (width, height) = dialog.bounding_box(), device["viewport"].values()
    assert box["x"] + box["width"] / 2 == pytest.approx(width / 2, abs=2)
    assert box["y"] + box["height"] / 2 == pytest.approx(height / 2, abs=2)
    back.click()
    dialog.wait_for(state="detached")
    page.keyboard.press("f")  # the keys answer again
    wait_for(lambda: page.wait_for_timeout(50) or len(rows(server)) == 2)
    page.locator("#withdraw").click()
    assert back.evaluate("e => e === document.activeElement")
    page.get_by_role("button", name="Delete my answers").click()
    page.get_by_role("heading", name="Your answers are deleted").wait_for()
    assert not rows(server)


def test_blocked_cookies_are_told(serve, visit, monkeypatch):
    server = serve()
    # A browser that keeps no cookie is as if none had come.
    monkeypatch.setattr(server.survey.cookies, "give", lambda *_, **__: None)
    page = visit(server.address, tolerate=["401"])
    ready(page)
    go_on(page, click)
    page.get_by_text("Please allow cookies for this page").wait_for()


def test_without_scripts_one_true_sentence_is_left(serve, visit, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(serve().address)
    text = page.locator("body").inner_text()
    context.close()
    assert "needs JavaScript" in text and "on their way" not in text


# Keys and places


def test_the_keyboard_goes_where_the_eye_goes(serve, visit):
    page = visit(serve().address)
    ready(page)
    page.locator("[name=agree]").focus()
    texts = []
    for _ in range(2):
        page.keyboard.press("Tab")
        texts.append(
            page.evaluate("document.activeElement.value || document.activeElement.innerText")
        )
    assert texts == ["Begin", "I'd rather not"]
    boxes = [page.locator(s).bounding_box() for s in ("input[type=submit]", "#decline")]
    assert boxes[0]["x"] < boxes[1]["x"]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"key": "r", "code": "KeyO"}, "real"),  # by its letter, wherever that is
        ({"key": "к", "code": "KeyR"}, "real"),  # by its place on a Russian keyboard
        ({"key": "F", "code": "KeyF"}, "fake"),
        ({"key": "p", "code": "KeyR"}, None),  # another letter of the same alphabet
        ({"key": "ArrowLeft", "code": "ArrowLeft"}, "real"),
        ({"key": "ArrowRight", "code": "ArrowRight"}, "fake"),
        ({"key": "ArrowDown", "code": "ArrowDown"}, "fake"),
    ],
)
def test_keys_of_every_layout(serve, visit, event, said):
    server = serve(scenes=2, practice=0, catch=0)
    page = visit(server.address)
    answered(page, 0)
    event = event | {"bubbles": True}
    page.evaluate(
        "e => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', e))", event
    )
    if said is None:
        page.wait_for_timeout(500)
        assert not rows(server)
    else:
        wait_for(lambda: page.wait_for_timeout(50) or rows(server))
        assert rows(server)[0]["answer"] == said


def test_keys_answer_only_where_the_focus_is(serve, visit):
    """WCAG 2.1.4: what is typed or said to another part of the page answers nothing."""
    server = serve(scenes=4, practice=0, catch=0)
    page = visit(server.address)
    answered(page, 0)
    page.keyboard.press("r")  # nobody has to click first
    wait_for(lambda: page.wait_for_timeout(50) or len(rows(server)) == 1)
    ready(page)
    for leave in (page.locator("#withdraw").focus, page.locator("h1").click):
        leave()
        for key in ("r", "f", "ArrowLeft"):
            page.keyboard.press(key)
    page.wait_for_timeout(500)
    assert len(rows(server)) == 1
    page.locator("#stage img").click()
    page.keyboard.press("f")
    wait_for(lambda: page.wait_for_timeout(50) or len(rows(server)) == 2)
    ready(page)
    page.locator("#withdraw").click()
    page.get_by_role("button", name="Go back").click()
    # wait_for_function would run as eval, which the page's policy forbids
    focused = "document.querySelector('#stage').contains(document.activeElement)"
    wait_for(lambda: page.wait_for_timeout(50) or page.evaluate(focused))
    page.keyboard.press("f")
    wait_for(lambda: page.wait_for_timeout(50) or len(rows(server)) == 3)
    ready(page)
    page.set_viewport_size({"width": 330, "height": 170})
    page.get_by_text("too small to be judged").wait_for()
    lost = "document.activeElement === document.body"
    wait_for(lambda: page.wait_for_timeout(50) or page.evaluate(lost))
    page.set_viewport_size(DESKTOP["viewport"])
    page.get_by_text("too small to be judged").wait_for(state="hidden")
    page.keyboard.press("r")
    wait_for(lambda: page.wait_for_timeout(50) or len(rows(server)) == 4)
    assert [row["answer"] for row in rows(server)] == ["real", "fake", "fake", "real"]


def test_a_finger_is_told_nothing_of_keys(serve, visit):
    server = serve(practice=0)
    hints = []
    for device, act in ((DESKTOP, click), (PHONE, pages.tap)):
        page = visit(server.address, device)
        go_through(page, act, until="What to do")
        hints.append(page.get_by_text("On a keyboard").is_visible())
        page.close()
    assert hints == [True, False]


# At 200 and at 400 % of zoom, a window of 1280 x 800 px has so many CSS px.
ZOOMED = {"200 %": (640, 400), "400 %": (320, 200)}


@pytest.mark.parametrize("zoom", ZOOMED)
@pytest.mark.parametrize("name", ["balanced-yesno", "2afc-1s"])
def test_text_is_not_clipped_by_zoom(serve, visit, name, zoom):
    width, height = ZOOMED[zoom]
    values = {"exposure_s": 0.1, "pause_s": 0.0} if name == "2afc-1s" else {}
    server = serve(name, scenes=2, practice=1, catch=0, side_mm=60.0, min_side_css=32, **values)
    page = visit(server.address, {"viewport": {"width": width, "height": height}})
    go_through(page, click, look=unclipped)


def unclipped(page):
    """Every text lies within the window, or in something that can be scrolled to it."""
    wrong = page.evaluate(
        """() => {
          const style = (e) => getComputedStyle(e);
          const scrolls = (e) => e === document.body ? style(e).overflowY !== "hidden"
            : /auto|scroll/.test(style(e).overflowY) || scrolls(e.parentElement);
          const isClipped = (e) => {
            const box = e.getBoundingClientRect();
            const above = box.top >= -1 && box.bottom <= innerHeight + 1;
            const wide = style(e).display !== "inline" && e.scrollWidth > e.clientWidth + 2;
            return box.left < -1 || box.right > innerWidth + 1 || wide || !(above || scrolls(e));
          };
          return [...document.querySelectorAll("#stage :is(h2, p, button, label, legend, input)")]
            .filter((e) => e.checkVisibility() && !e.closest(".hidden") && isClipped(e))
            .map((e) => e.outerHTML.slice(0, 80));
        }"""
    )
    assert not wrong
