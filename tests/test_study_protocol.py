"""Protocols: the packaged ones hold what they promise, and a mistake is named by file and field."""

import json
import re
import subprocess
import sys

import pytest

from colorlib import ColorlibError
from study import protocol as protocols

NAMES = ["balanced-yesno", "2afc-1s", "replicate-2017"]
LIVE = {
    'name = ""     # who': 'name = "Ada Ek, Uppsala"     # who',
    'email = ""': 'email = "ada@example.org"',
    'statement = ""': 'statement = "The ethics board has approved this study."',
    'approval = ""': 'approval = "2027-01"',
    'anonymized_on = ""': "anonymized_on = 2027-03-31",
    'delete_after = ""': "delete_after = 2032-12-31",
}


@pytest.fixture
def edited(tmp_path):
    """A function that saves the default protocol with texts exchanged: its path."""

    def save(changes, name="balanced-yesno"):
        text = (protocols.FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return save


def strings(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def test_the_three_modes_are_packaged():
    assert protocols.names()[0] == "balanced-yesno" and set(protocols.names()) == set(NAMES)
    yesno, pairs, replication = map(protocols.load, NAMES)
    assert (yesno.mode, yesno.design.exposure_s, yesno.design.colored_share) == ("yesno", 0, 0.5)
    assert yesno.design.scenes >= 40 and yesno.design.practice and yesno.design.catch
    # Zhang, Isola and Efros 2016: ten for practice with feedback, then 40 with four vigilance
    # trials, one second each at 256 px.
    assert (pairs.mode, pairs.trials, pairs.design.catch) == ("2afc", 40, 4)
    assert (pairs.design.practice, pairs.design.practice_feedback) == (10, True)
    assert (pairs.design.exposure_s, pairs.design.longest_side) == (1, 256)
    # Nine colored photos and three originals, the same for all, and no checks.
    design = replication.design
    assert (replication.trials, design.scenes * design.colored_share) == (12, 9)
    assert design.same_for_all and not design.practice and not design.catch


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_to_fill_in_but_what_the_page_knows(name):
    shown = protocols.load(name).page_texts()
    left = {brace for text in strings(shown) for brace in re.findall(r"\{(.*?)\}", text)}
    assert left <= set(protocols.PAGE_VALUES)
    assert shown["texts"]["trial"]["progress"].format(number=3, total=44) == "Photo 3 of 44"
    json.dumps(shown)  # the page gets it so


@pytest.mark.parametrize("name", NAMES)
def test_consent_says_what_it_must(name):
    protocol = protocols.load(name)
    consent = protocol.page_texts()["consent"]
    text = " ".join(consent["body"])
    for word in ("stop at any time", "deleted until", "cookie", str(protocol.trials), "published"):
        assert word in text, word
    for kept in ("page is enlarged", "fine your screen is", "from a panel", "invitation"):
        assert kept in text, kept
    assert "18" in consent["adult"] and "free will" in consent["agree"]
    (vision,) = [question for question in protocol.questions if question.id == "color_vision"]
    assert "health" in vision.consent and not any(
        question.consent for question in protocol.questions if question is not vision
    )


def test_live_mode_wants_contact_ethics_and_retention(edited):
    missing = protocols.load().missing_for_live()
    assert missing == [
        "contact.name",
        "contact.email",
        "ethics.statement",
        "ethics.approval",
        "retention.anonymized_on",
        "retention.delete_after",
    ]
    for name in missing:
        assert f"[{name}]" in " ".join(protocols.load().page_texts()["consent"]["body"])
    filled = protocols.load(edited(LIVE))
    assert filled.missing_for_live() == []
    text = " ".join(filled.page_texts()["consent"]["body"])
    assert "ada@example.org" in text and "2027-03-31" in text and "[" not in text


def test_a_translation_is_a_file(edited):
    path = edited(
        {
            'language = "en"': 'language = "de"',
            'first_answer = "Real"': 'first_answer = "Echt"',
            "Photo {number} of {total}": "Foto {number} von {total}",
        }
    )
    shown = protocols.load(str(path))
    assert shown.language == "de"
    assert shown.page_texts()["texts"]["trial"]["first_answer"] == "Echt"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('mode = "yesno"', 'mode = "maybe"', "mode: Input should be 'yesno' or '2afc'.*'maybe'"),
        ("scenes = 40", "scenes = 0", "design.scenes: .*greater than or equal to 1"),
        ("scenes = 40", 'scenes = "forty"', "design.scenes: .*integer.*'forty'"),
        ("scenes = 40", "", "design.scenes: is missing; add it"),
        ("scenes = 40", "scenes = 40\nscene = 1", "design.scene: is not a field of a protocol"),
        ("colored_share = 0.5", "colored_share = 1", "design.colored_share: .*less than 1"),
        ("max_side_css = 1024", "max_side_css = 100", "design.max_side_css: must not be below"),
        ("max_presentations = 10", "max_presentations = 0", "exclusions.max_presentations"),
        ("max_age_hours = 24", "max_age_hours = 0", "resume.max_age_hours"),
        ('email = ""', 'email = "me at home"', "contact.email: is not an e-mail address"),
        ('anonymized_on = ""', 'anonymized_on = "soon"', "retention.anonymized_on: .*date"),
        ('completion_url = ""', 'completion_url = "javascript:x"', "panel.completion_url"),
        ('title = "What to do"', 'title = ""', "texts.instructions.title: .*at least 1 character"),
        ("{photos} photos, one", "{foto} photos, one", r"consent.body.1: names \{foto\}, which"),
        ("{photos} photos, one", "{photos photos, one", "consent.body.1: .*brace"),
        ("{photos} photos, one", "{photos:d} photos", r"consent.body.1: write \{photos\} without"),
        ("{photos} photos, one", "{photos!r} photos", r"consent.body.1: write \{photos\} without"),
        ("[texts.thanks]", "[texts.thank]", "texts.thanks: is missing.*and 1 more"),
        ('second_key = "f"', 'second_key = "R"', "texts.trial.second_key: must differ"),
        ("min_catch_correct = 3", "min_catch_correct = 5", "exclusions.min_catch_correct: is 5"),
        ('id = "age"', 'id = "known"', "has the question 'known' twice"),
        ('value = "hobby"', 'value = "work"', "questions.0: has the option 'work' twice"),
        ('value = "hobby"', f'value = "{65 * "x"}"', "questions.0: 'xxx.*x' must have 64 char"),
        ('id = "age"', f'id = "{65 * "x"}"', "questions.1: 'xxx.*x' must have 64 char"),
        ('ways = ["open", "invitation", "panel"]', "ways = []", "entry.ways"),
        ('mode = "yesno"', 'mode = "2afc"', "design.exposure_s: must be above 0 in mode 2afc"),
        ('name = "balanced-yesno"', "name = balanced", "not a TOML file .*line 9"),
        ("minutes = 8 ", "minutes = 0 ", "design.minutes"),
        ("exposure_s = 0 ", "exposure_s = 30 ", "design.minutes: must be above 24.0, which"),
        ("quota = 0", "quota = -1", "entry.quota"),
        ('direction = "ltr"', 'direction = "down"', "direction: Input should be 'ltr' or 'rtl'"),
        ("{minutes} minutes", "nine minutes", "consent.body.1: says 'nine minutes', .* has 8; wri"),
        ("{photos} photos, one", "41 photos, one", "consent.body.1: says '41 photos', .* 40, 44;"),
        ("more than {resume_hours} hours", "more than 20 hours", "texts.problems.expired: says"),
    ],
)
def test_a_mistake_is_named_by_file_and_field(edited, old, new, complaint):
    with pytest.raises(ColorlibError, match=f"mine.toml: {complaint}") as error:
        protocols.load(edited({old: new}))
    assert "\n" not in str(error.value)


def test_numbers_that_texts_write_out_are_held_against_the_design(edited):
    share = {"colored_share = 0.5": "colored_share = 0.25"}
    half = {"We want to know how often": "Half of the photos were colored. How often"}
    protocols.load(edited(half))
    protocols.load(edited(share))
    protocols.load(edited({"{photos} photos, one": "40 new photos, one"}))
    paused = {"pause_s = 0": "pause_s = 1.5", "minutes = 8 ": "minutes = 9 "}
    protocols.load(edited(paused | {"{photos} photos, one": "After 1.5 seconds one"}))
    for text in ("2.5 seconds", "1,040 photos"):  # were read as 5 seconds and 040 photos
        with pytest.raises(ColorlibError, match=f"consent.body.1: says '{text}', where"):
            protocols.load(edited(paused | {"{photos} photos, one": f"After {text} one"}))
    with pytest.raises(ColorlibError, match="debriefing.body.1: says 'half', but 10 of 40 photos"):
        protocols.load(edited(share | half))
    none = {"catch = 4 ": "catch = 0 ", "min_catch_correct = 3 ": "min_catch_correct = 0 "}
    with pytest.raises(ColorlibError, match=r"debriefing.body.0: names \{catch_photos\}, of which"):
        protocols.load(edited(none))
    shown = protocols.load("replicate-2017").page_texts()
    assert (
        "3 were as the camera took them. For the other 9,"
        in shown["texts"]["debriefing"]["body"][0]
    )
    assert "about 3 minutes" in shown["consent"]["body"][1]


def test_a_half_translated_protocol_names_what_is_left(edited):
    german = {'language = "en"': 'language = "de"', 'accept = "Begin"': 'accept = "Los"'}
    (line,) = protocols.load(edited(german)).told_at_start()
    assert "language is de" in line and "consent.decline" in line and "questions.3.consent" in line
    assert "consent.accept" not in line and "first_key" not in line and "version" not in line
    assert protocols.load().told_at_start() == []
    missing = {'paused = "': '# paused = "', 'full = "': '# full = "'}
    with pytest.raises(ColorlibError, match="texts.problems.paused, texts.problems.full: are miss"):
        protocols.load(edited(german | missing))


def test_the_hash_of_a_protocol_holds_all_of_it(edited):
    hashes = {protocols.load().sha256}
    for change in (
        {'first_answer = "Real"': 'first_answer = "Fake"'},
        {'first_key = "r"': 'first_key = "g"'},
        {"min_response_ms = 200 ": "min_response_ms = 201 "},
        {"18 to 29": "18 to 30"},
    ):
        hashes.add(protocols.load(edited(change)).sha256)
    assert len(hashes) == 5
    assert protocols.load(edited({"# The default": "# Another comment"})).sha256 in hashes


def test_dates_are_in_order(edited):
    changes = LIVE | {'delete_after = ""': "delete_after = 2027-01-01"}
    with pytest.raises(ColorlibError, match="retention.delete_after: must not be before"):
        protocols.load(edited(changes))


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ColorlibError, match="balanced.yesno: no such protocol; give one of bal"):
        protocols.load("balanced_yesno")
    with pytest.raises(ColorlibError, match="no such protocol"):
        protocols.load(tmp_path)


def test_a_protocol_stays_as_it_was_read():
    protocol = protocols.load()
    with pytest.raises(Exception, match="frozen"):
        protocol.design.scenes = 12


def test_reading_a_protocol_loads_nothing_heavy():
    code = (
        "import sys; from study import protocol; protocol.load(); "
        "print(sorted({'keras', 'tensorflow', 'scipy', 'pandas', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=protocols.FOLDER.parents[1],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
