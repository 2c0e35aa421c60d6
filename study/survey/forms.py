"""What the page may send: each request's body, checked field by field."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from study.protocol import QUESTIONS, WORD
from study.survey import entry
from study.survey.guards import body
from study.survey.store import Refusal


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# Letters, digits and what links of panels have; no control characters, nothing that is not text.
_Code = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$")]
_Word = Annotated[str, Field(pattern=r"^[a-z0-9_-]+$", max_length=WORD)]
_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
_TrialNumber = Annotated[int, Field(ge=1, le=10_000)]
_Milliseconds = Annotated[float, Field(ge=0, le=1e9)]
_Pixels = Annotated[int, Field(ge=0, le=100_000)]


# Made by the browser, so that a request that is sent again gets the same session.
_Key = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Enter(_Body):
    """The way in that somebody uses."""

    invitation: _Code | None = None
    panel: _Code | None = None

    @property
    def entrance(self):
        if self.invitation:
            return entry.Entrance("invitation", self.invitation)
        return entry.Entrance("panel", self.panel) if self.panel else entry.Entrance("open")


class Start(Enter):
    """Consent to the protocol that the page has shown, and the way in that somebody used."""

    protocol: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    adult: Literal[True]
    agree: Literal[True]
    key: _Key
    another: bool = False


class Continue(_Body):
    """Going on with what was begun by an invitation in another browser."""

    invitation: _Code
    key: _Key


class Withdraw(_Body):
    """Withdrawal, by the code that a person was shown."""

    code: Annotated[str, Field(max_length=200)]


class Presentation(_Body):
    """A trial that begins; a browser names each time that it does."""

    id: _Id
    trial: _TrialNumber


class Answer(_Body):
    """One answer, as the browser measured it."""

    id: _Id
    trial: _TrialNumber
    answer: Literal["real", "fake", "first", "second"]
    response_ms: _Milliseconds
    exposure_first_ms: _Milliseconds | None = None
    exposure_second_ms: _Milliseconds | None = None
    viewport_width: _Pixels
    viewport_height: _Pixels
    pixel_ratio: Annotated[float, Field(gt=0, le=100)]
    zoom: Annotated[float, Field(gt=0, le=1000)]
    image_width_css: Annotated[float, Field(ge=0, le=100_000)]
    px_per_mm: Annotated[float, Field(gt=0, le=1000)] | None = None
    focus_lost_ms: _Milliseconds
    shown_at: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]


class Replies(_Body):
    """Replies to optional questions, and the separate consents that were given."""

    replies: Annotated[dict[_Word, _Word], Field(max_length=QUESTIONS)]
    agreed: Annotated[list[_Word], Field(max_length=QUESTIONS)] = []


class Finish(_Body):
    """The end, as far as the browser can tell."""


async def read(model, request):
    """A request's body as a checked form."""
    try:
        return model.model_validate_json(await body(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refusal(422, "bad_form", f"{where}: {first['msg']}"[:300]) from None
    except ValueError as error:
        raise Refusal(*error.args) from None
