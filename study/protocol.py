"""Protocols: each TOML file holds everything that a study asks, shows, promises and excludes.

To change or translate a study, copy a packaged file and edit it. No text is in the code.
"""

import hashlib
import json
import re
import tomllib
from datetime import date
from functools import reduce
from operator import getitem
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from colorlib import ColorlibError
from study.texts import check_numbers, untranslated

FOLDER = Path(__file__).parent / "protocols"
DEFAULT = "balanced-yesno"

# What a text may name in braces. The first ones are known before anybody comes and are filled in
# by `Protocol.page_texts`; the others by the page, for each person or photo.
STUDY_VALUES = (
    "contact_name",
    "contact_email",
    "ethics_statement",
    "ethics_approval",
    "anonymized_on",
    "delete_after",
    "photos",
    "practice_photos",
    "colored_photos",
    "original_photos",
    "catch_photos",
    "seconds",
    "minutes",
    "resume_hours",
)
PAGE_VALUES = ("number", "total", "code", "url", "key")

# What the server takes and the database keeps, of the replies to optional questions.
WORD, QUESTIONS = 64, 100


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def _check_braces(text: str) -> str:
    try:
        fields = [field for field in Formatter().parse(text) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"{error}; write a brace that is meant as such twice") from None
    names = {name for _, name, _, _ in fields}
    for _, name, form, conversion in fields:
        if form or conversion:
            raise ValueError(f"write {{{name}}} without a format: values are texts already")
    for name in sorted(names - {*STUDY_VALUES, *PAGE_VALUES}):
        known = ", ".join((*STUDY_VALUES, *PAGE_VALUES))
        raise ValueError(f"names {{{name}}}, which nothing fills in; known are {known}")
    return text


# Participants read it, so it is never empty. Plain text: the page shows it letter by letter.
Text = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_check_braces)]
Key = Annotated[str, Field(min_length=1, max_length=1)]
Paragraphs = Annotated[tuple[Text, ...], Field(min_length=1)]
Site = Annotated[
    str, Field(pattern=r"^(https://(\*\.)?[A-Za-z0-9.-]+|http://localhost)(:[0-9]+)?$")
]
# TOML has no empty value: "" is a date that is not settled yet.
Date = Annotated[date | None, BeforeValidator(lambda value: None if value == "" else value)]


class Contact(_Part):
    """Whom a participant can ask. Live mode needs both."""

    name: str
    email: str

    @field_validator("email")
    @classmethod
    def _address(cls, value):
        if value and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value):
            raise ValueError("is not an e-mail address")
        return value


class Ethics(_Part):
    """What a participant is told about the ethics review, and its reference number."""

    statement: str
    approval: str


class Retention(_Part):
    """Until when a person's answers can be deleted, and when the raw data are."""

    anonymized_on: Date  # from this day on, no row can be told to be somebody's
    delete_after: Date


class Consent(_Part):
    """The first page. `version` is stored with every participant."""

    version: Text
    title: Text
    body: Paragraphs
    adult: Text  # each of the two is a box that must be ticked
    agree: Text
    accept: Text
    decline: Text
    declined: Paragraphs


class Design(_Part):
    """How many photos of which kind, and for how long."""

    scenes: int = Field(ge=1, le=1000)  # photos, or pairs in 2afc, without catch trials
    colored_share: float = Field(gt=0, lt=1)  # of the photos of a person; 0.5 in 2afc
    same_for_all: bool  # everybody sees each scene in the same version
    practice: int = Field(ge=0, le=100)
    practice_feedback: bool  # whether practice tells if an answer was right
    catch: int = Field(ge=0, le=100)  # trials with the photo's own colors in wrong places
    exposure_s: float = Field(ge=0, le=60)  # of each photo; 0 is as long as the person likes
    pause_s: float = Field(ge=0, le=10)  # empty screen before each timed photo
    longest_side: int = Field(ge=64, le=2048)  # of the stimuli, px
    minutes: int = Field(ge=1, le=600)  # that taking part takes, as the texts say
    # Of a photo as it is drawn, its longer side in CSS px: below the first, no answer is taken.
    min_side_css: float = Field(default=160, ge=32, le=1000)
    max_side_css: float = Field(default=0, ge=0, le=10_000)  # 0 is as large as the window allows
    side_mm: float = Field(default=0, ge=0, le=1000)  # by a card held to the screen; 0: not asked

    @property
    def colored(self) -> int:
        """How many of the scenes a person sees colored, where one photo at a time is asked."""
        return round(self.scenes * self.colored_share)


class Resume(_Part):
    """How long an interrupted session can be resumed."""

    max_age_hours: float = Field(gt=0, le=24 * 30)


class Entry(_Part):
    """How people may come in."""

    ways: Annotated[tuple[Literal["open", "invitation", "panel"], ...], Field(min_length=1)]
    quota: int = Field(ge=0)  # of people; when it is reached nobody can begin. 0 is no limit


class Panel(_Part):
    """A recruitment panel's link. If both completion fields are empty, no code is shown.

    Each may hold `{code}`: a code of the person's own, that `python -m study paid` checks.
    """

    id_parameter: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
    completion_code: str
    completion_url: Annotated[str, Field(pattern=r"^(https://\S+)?$")]
    # Sites that may show the page in a frame of theirs: "https://*.mturk.com" for MTurk.
    frame_ancestors: tuple[Site, ...] = ()


class Option(_Part):
    """One answer to a question: `value` is stored, `label` is read."""

    value: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    label: Text


class Question(_Part):
    """An optional question after the photos. With `consent`, only those who agree are asked."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    text: Text
    options: Annotated[tuple[Option, ...], Field(min_length=2)]
    consent: Annotated[str, AfterValidator(_check_braces)] = ""

    @model_validator(mode="after")
    def _values_differ(self):
        _no_twins("option", [option.value for option in self.options])
        return self


class Exclusions(_Part):
    """The rules by which rows are flagged, fixed before the first answer is looked at.

    Flags of a person, in this order: `excluded_incomplete`, `excluded_repeat`, `excluded_catch`,
    `excluded_fast`, `excluded_same`, `excluded_rate`, `excluded_total`; of a single answer:
    `excluded_response`, `excluded_exposure`, `excluded_server`, `excluded_presentations`. Rows stay
    as they are. What the browser measured can be forged; the last four fields go by what the
    server saw. Fast, same and rate need ten answers, or all that a session has: whoever stops
    before is incomplete, and no more is known.
    """

    preregistered_on: Date
    registry: str  # where the plan can be read
    incomplete: bool  # people who did not answer all trials
    repeats: bool  # people who took part before, as far as that shows
    # People who get so many catch trials wrong that fewer than these could be right.
    min_catch_correct: int = Field(ge=0)
    min_median_response_ms: float = Field(ge=0)  # people whose median answer was faster
    max_same_answer_share: float = Field(gt=0, le=1)  # people who said one thing more often
    min_response_ms: float = Field(ge=0)  # single answers that were faster
    max_response_ms: float = Field(gt=0)  # single answers that were slower
    max_exposure_error_ms: float = Field(gt=0)  # timed trials shown for too long or too short
    # Answers that came sooner after the photo, or sooner than the browser says; 0 is no rule.
    min_server_ms: float = Field(default=0, ge=0)
    max_presentations: int = Field(default=1000, ge=1)  # answers to photos shown more often
    max_answers_per_minute: float = Field(default=1e6, gt=0)  # people who gave ten faster
    min_total_s: float = Field(default=0, ge=0)  # people who were through sooner after consent

    def preregistration(self, first) -> str:
        """Whether the rules were fixed before the first answer, in a sentence.

        Args:
            first: datetime.date or None. The day (UTC) of the first answer.
        """
        day = self.preregistered_on
        if not day:
            return "The exclusion rules have no date of preregistration."
        at = f" ({self.registry})" if self.registry else ""
        told = f"The exclusion rules were preregistered on {day}{at}"
        if first is None:
            return f"{told}; there is no answer yet."
        if day > first:
            return (
                f"The exclusion rules are dated {day}{at}, but the first answer was given on "
                f"{first}: they were not preregistered."
            )
        return f"{told}, and the first answer was given on {first}."


class InstructionTexts(_Part):
    title: Text
    body: Paragraphs
    keys: Text
    start: Text


class CalibrationTexts(_Part):
    """Shown where design.side_mm fixes the size of the photos."""

    title: Text
    body: Paragraphs
    slider: Text
    next: Text


class PracticeTexts(_Part):
    title: Text
    body: Paragraphs
    start: Text
    right: Text
    wrong: Text
    next: Text
    done_title: Text
    done_body: Paragraphs
    done_start: Text


class TrialTexts(_Part):
    """In yesno the first answer is "real", the second "fake"; in 2afc "first" and "second"."""

    question: Text
    first_answer: Text
    second_answer: Text
    first_key: Key
    second_key: Key
    progress: Text
    image_alt: Text  # must not tell one version from the other
    ready: Text  # 2afc: before a pair
    show: Text  # 2afc: the button that shows it
    first_photo: Text  # 2afc: spoken while it is shown
    second_photo: Text
    enlarge: Text  # instead of a photo below design.min_side_css


class QuestionTexts(_Part):
    title: Text
    body: Paragraphs
    skip: Text
    next: Text


class ConnectionTexts(_Part):
    loading: Text
    saving: Text
    saved: Text
    offline: Text
    retry: Text  # no page shows it, but the hash that running studies go by holds it


class DebriefingTexts(_Part):
    title: Text
    body: Paragraphs
    next: Text


class ThanksTexts(_Part):
    title: Text
    body: Paragraphs
    withdrawal_title: Text
    withdrawal_body: Paragraphs
    copy_code: Text
    copied: Text
    copy_failed: Text
    completion_code: Text
    completion_link: Text


class WithdrawalTexts(_Part):
    """The button on every screen, and what opens at it."""

    told: Text  # with the code, on the first screen after consent
    button: Text
    title: Text
    body: Paragraphs
    code: Text
    confirm: Text
    cancel: Text
    failed: Text  # the request got no answer
    unknown: Text
    too_late: Text
    done_title: Text
    done_body: Paragraphs


class ComingBackTexts(_Part):
    """For whoever comes where something has been begun already."""

    title: Text
    begun_here: Text  # in this browser, by whomever
    finished_here: Text
    begun_elsewhere: Text  # by this invitation
    go_on: Text
    somebody_else: Text
    gone: Text  # continued in another browser, or withdrawn


class ProblemTexts(_Part):
    no_script: Text
    no_cookie: Text
    resumed: Text
    expired: Text
    other_tab: Text
    finished: Text
    bad_invitation: Text
    closed: Text
    paused: Text
    full: Text
    changed: Text  # the session was begun under another version
    photo_failed: Text
    unexpected: Text
    reload: Text


class Texts(_Part):
    """Every other text that a participant reads."""

    title: Text
    demo: Text
    contact: Text
    privacy: Text
    instructions: InstructionTexts
    calibration: CalibrationTexts
    practice: PracticeTexts
    trial: TrialTexts
    questions: QuestionTexts
    connection: ConnectionTexts
    debriefing: DebriefingTexts
    thanks: ThanksTexts
    withdrawal: WithdrawalTexts
    coming_back: ComingBackTexts
    problems: ProblemTexts


class Protocol(_Part):
    """A whole study. `load` makes it from a file; it can't be changed afterwards."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
    version: Text
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]+)*$")]
    direction: Literal["ltr", "rtl"]  # in which the language is written
    mode: Literal["yesno", "2afc"]
    contact: Contact
    ethics: Ethics
    retention: Retention
    consent: Consent
    design: Design
    resume: Resume
    entry: Entry
    panel: Panel
    questions: tuple[Question, ...] = ()
    texts: Texts
    exclusions: Exclusions

    @model_validator(mode="after")
    def _parts_agree(self):
        if self.mode == "2afc" and not self.design.exposure_s:
            raise ValueError("design.exposure_s: must be above 0 in mode 2afc")
        if self.mode == "2afc" and (self.design.same_for_all or self.design.colored_share != 0.5):
            raise ValueError(
                "design.colored_share, design.same_for_all: must be 0.5 and false in mode 2afc, "
                "where every pair holds both versions"
            )
        if self.exclusions.min_catch_correct > self.design.catch:
            raise ValueError(
                f"exclusions.min_catch_correct: is {self.exclusions.min_catch_correct}, with only "
                f"{self.design.catch} catch trials in design.catch"
            )
        photos = (self.trials + self.design.practice) * (2 if self.mode == "2afc" else 1)
        least = photos * (self.design.exposure_s + self.design.pause_s) / 60
        if self.design.minutes < least:
            raise ValueError(f"design.minutes: must be above {least:.1f}, which photos alone take")
        if 0 < self.design.max_side_css < self.design.min_side_css:
            raise ValueError("design.max_side_css: must not be below min_side_css, or 0")
        if self.exclusions.min_response_ms >= self.exclusions.max_response_ms:
            raise ValueError("exclusions.min_response_ms: must be below max_response_ms")
        trial = self.texts.trial
        if trial.first_key.lower() == trial.second_key.lower():
            raise ValueError("texts.trial.second_key: must differ from first_key")
        dates = self.retention
        if dates.anonymized_on and dates.delete_after and dates.delete_after < dates.anonymized_on:
            raise ValueError("retention.delete_after: must not be before anonymized_on")
        _no_twins("question", [question.id for question in self.questions])
        return self

    @property
    def trials(self) -> int:
        """How many answers a whole session has besides practice: scenes and catch trials."""
        return self.design.scenes + self.design.catch

    @property
    def _scenes(self):
        """How many colored photos and how many originals a person judges, without catch trials."""
        if self.mode == "2afc":
            return self.design.scenes, self.design.scenes
        return self.design.colored, self.design.scenes - self.design.colored

    @property
    def content(self) -> str:
        """The whole protocol as JSON, always the same for the same values: what a study keeps."""
        values = self.model_dump(mode="json")
        return json.dumps(values, sort_keys=True, ensure_ascii=False, indent=1) + "\n"

    @property
    def sha256(self) -> str:
        """The hash of `content`, by which every session says what the person agreed to."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def check_live(self) -> None:
        """Raises a ColorlibError that names what is missing before real people may take part."""
        missing = self.missing_for_live()
        if missing:
            raise ColorlibError(
                f"protocol {self.name}: fill in {', '.join(missing)} before real people take "
                "part, or look around with --demo"
            )

    def missing_for_live(self) -> list[str]:
        """The fields that must be filled in before real people take part, by name."""
        live = {
            f"{part}.{name}": value
            for part in ("contact", "ethics", "retention")
            for name, value in getattr(self, part)
        }
        return [name for name, value in live.items() if not value]

    def values(self) -> dict:
        """What the study knows for the names in braces before anybody comes (`STUDY_VALUES`)."""
        return {
            "contact_name": self.contact.name or "[contact.name]",
            "contact_email": self.contact.email or "[contact.email]",
            "ethics_statement": self.ethics.statement or "[ethics.statement]",
            "ethics_approval": self.ethics.approval or "[ethics.approval]",
            "anonymized_on": self.retention.anonymized_on or "[retention.anonymized_on]",
            "delete_after": self.retention.delete_after or "[retention.delete_after]",
            "photos": self.trials,
            "practice_photos": self.design.practice,
            "colored_photos": self._scenes[0],
            "original_photos": self._scenes[1],
            "catch_photos": self.design.catch,
            "seconds": f"{self.design.exposure_s:g}",
            "minutes": self.design.minutes,
            "resume_hours": f"{self.resume.max_age_hours:g}",
        }

    def told_at_start(self) -> list[str]:
        """What whoever runs the study should know before anybody comes, in lines."""
        told = []
        left = untranslated(self, [load(name) for name in names()])
        if left:
            told.append(
                f"protocol {self.name}: language is {self.language}, but these texts are still "
                f"the packaged ones: {', '.join(left)}"
            )
        return told

    def page_texts(self) -> dict:
        """What the page shows: `consent`, `questions` and `texts`, with the study's values in.

        Values that live mode still needs appear as their field's name in brackets. What the page
        fills in itself (`PAGE_VALUES`) keeps its braces.
        """
        later = {name: f"{{{name}}}" for name in PAGE_VALUES}
        shown = self.model_dump(mode="json", include={"consent", "questions", "texts"})
        return _filled(shown, self.values() | later)


def names() -> list[str]:
    """The packaged protocols, the default first."""
    found = sorted(path.stem for path in FOLDER.glob("*.toml"))
    return sorted(found, key=lambda name: name != DEFAULT)


def load(name=DEFAULT) -> Protocol:
    """Reads and checks a protocol.

    Args:
        name: one of `names()`, or the path of a TOML file.

    Raises:
        ColorlibError: no such file, not TOML, or a field that is missing, unknown or wrong; the
            message names file and field.
    """
    path = FOLDER / f"{name}.toml" if str(name) in names() else Path(name)
    if not path.is_file():
        raise ColorlibError(
            f"{name}: no such protocol; give one of {', '.join(names())}, or a TOML file"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ColorlibError(f"{path.name}: not a TOML file ({error}); mend it there") from None
    try:
        protocol = Protocol.model_validate(content)
        check_numbers(protocol)
        _check_questions(protocol)
    except ValidationError as error:
        raise ColorlibError(f"{path.name}: {_first_problem(error)}") from None
    except ColorlibError as error:
        raise ColorlibError(f"{path.name}: {error}") from None
    return protocol


def _check_questions(protocol):
    """Not a rule of the model: what a database has kept can be read whatever it is."""
    if len(protocol.questions) > QUESTIONS:
        raise ColorlibError(f"questions: must be {QUESTIONS} at most")
    for place, question in enumerate(protocol.questions):
        for word in (question.id, *(option.value for option in question.options)):
            if len(word) > WORD:
                raise ColorlibError(
                    f"questions.{place}: {word!r} must have {WORD} characters at most"
                )


def kept(content) -> tuple[Protocol, list[str]]:
    """A protocol from the JSON that a database keeps, whichever version of this program wrote it.

    A field that this version doesn't know is left out. One that was not known then gets the value
    that it has in replicate-2017, which tests nobody's attention and excludes nobody by a measure.

    Returns:
        The protocol, and the names of these fields.

    Raises:
        ColorlibError: a field has another type than it has now.
    """
    found, fields = json.loads(content), []
    try:
        return Protocol.model_validate(found), fields
    except ValidationError as error:
        problems = error.errors()
    plain = load("replicate-2017").model_dump(mode="json")
    for problem in problems:
        *path, name = problem["loc"] or ("",)
        if problem["type"] == "extra_forbidden":
            del reduce(getitem, path, found)[name]
        elif problem["type"] == "missing" and not any(isinstance(part, int) for part in path):
            reduce(getitem, path, found)[name] = reduce(getitem, path, plain)[name]
        fields.append(".".join(map(str, problem["loc"])))
    try:
        return Protocol.model_validate(found), fields
    except ValidationError as error:
        raise ColorlibError(f"the protocol in the database: {_first_problem(error)}") from None


def _first_problem(error) -> str:
    """The first of pydantic's complaints as a line: field, what is wrong, what to do."""
    problem, *others = error.errors()
    missing = [".".join(map(str, p["loc"])) for p in error.errors() if p["type"] == "missing"]
    if len(missing) > 1:
        return f"{', '.join(missing)}: are missing; add them, as in the packaged protocols"
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        message = "is missing; add it, as in the packaged protocols"
    elif problem["type"] == "extra_forbidden":
        message = "is not a field of a protocol; check its spelling, or remove it"
    else:
        message = problem["msg"].removeprefix("Value error, ")
        if not isinstance(problem["input"], dict):
            message += f". Received: {str(problem['input'])[:60]!r}"
    more = f" (and {len(others)} more)" if others else ""
    return (f"{field}: {message}" if field else message) + more


def _no_twins(what, values) -> None:
    twins = sorted({value for value in values if values.count(value) > 1})
    if twins:
        raise ValueError(f"has the {what} {twins[0]!r} twice; rename one of them")


def _filled(value, values):
    """A nested structure of texts with the braces filled in; what the study stores stays."""
    if isinstance(value, str):
        return value.format(**values)
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    return [_filled(item, values) for item in value] if isinstance(value, list) else value
