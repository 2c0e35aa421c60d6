"""The survey's server: a page, its photos, and the few requests that deliver answers."""

import asyncio
import base64
import hmac
import html
import secrets
import socket
from pathlib import Path
from string import Template
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from colorlib import ColorlibError
from study.survey import sessions
from study.survey.guards import Guard, body, refused
from study.survey.plan import Material
from study.survey.sessions import Refusal
from study.survey.store import Store, Unavailable

STATIC = Path(__file__).parent / "static"
COOKIE = "koala"
EVERY = 16  # survey.js puts the bytes back
COOKIE_SECONDS = 180 * 24 * 3600  # as long as somebody may come back and be known as a repeat


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# Letters, digits and what links of panels have; no control characters, nothing that is not text.
_Code = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$")]
_Word = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
_TrialNumber = Annotated[int, Field(ge=1, le=10_000)]
_Milliseconds = Annotated[float, Field(ge=0, le=1e9)]
_Pixels = Annotated[int, Field(ge=0, le=100_000)]


class Start(_Body):
    """Consent, and the way in that somebody used."""

    consent_version: Annotated[str, Field(max_length=4000)]
    adult: Literal[True]
    agree: Literal[True]
    invitation: _Code | None = None
    panel: _Code | None = None
    again: bool = False


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

    replies: Annotated[dict[_Word, _Word], Field(max_length=100)]
    agreed: Annotated[list[_Word], Field(max_length=100)] = []


class Finish(_Body):
    """The end, as far as the browser can tell."""


def withhold(content) -> tuple[bytes, bytes]:
    """Splits a photo's file: what a browser may fetch ahead, and what makes a photo of it.

    Every 16th byte is withheld until the trial begins. What is left shows nothing: the code of a
    JPEG can't be read across a gap. What is withheld is small enough to come at once. So photos are
    fetched ahead, and yet the server knows when each could be seen first, and how often. A cipher
    would do the same with a key instead of bytes, but browsers offer ciphers on https only, and
    Python has none.

    Returns:
        The part to be fetched ahead, and the part to be withheld.
    """
    body = bytearray(content)
    del body[::EVERY]
    return bytes(body), content[::EVERY]


class Survey:
    """A study that is served.

    Args:
        protocol: `study.protocol.Protocol`.
        stimuli: `study.stimuli.Stimuli`.
        store: `study.survey.store.Store`.
        demo: bool. Whether it is a demonstration, whose answers do not count.

    Raises:
        ColorlibError: the protocol isn't filled in for real people, the stimuli are too few for
            it, or the database is another study's.
    """

    def __init__(self, protocol, stimuli, store, demo=False):
        if not demo:
            protocol.check_live()
        self.protocol, self.stimuli, self.store, self.demo = protocol, stimuli, store, demo
        self.material = Material(protocol, stimuli)
        self.salt = store.write(sessions.adopt, protocol, stimuli, demo)
        self.index = self._index()
        # In memory, so that no photo comes faster for having been asked for before.
        self._bodies, self._pieces = {}, {}
        for stimulus in self.material.version:
            self._bodies[stimulus], piece = withhold(stimuli.read(stimulus))
            self._pieces[stimulus] = base64.b64encode(piece).decode()
        self.public = {
            "mode": protocol.mode,
            "demo": demo,
            "language": protocol.language,
            "exposure_ms": 1000 * protocol.design.exposure_s,
            "pause_ms": 1000 * protocol.design.pause_s,
            "media_type": stimuli.info["media_type"],
            "min_side": protocol.design.min_side_css,
            "max_side": protocol.design.max_side_css,
            "side_mm": protocol.design.side_mm,
            "feedback": protocol.design.practice_feedback,
            "panel_parameter": protocol.panel.id_parameter,
            **protocol.page_texts(),
        }

    def _index(self):
        texts = self.protocol.page_texts()["texts"]
        values = {
            "language": self.protocol.language,
            "title": texts["title"],
            "demo": texts["demo"] if self.demo else "",
            "loading": texts["connection"]["loading"],
            "no_script": texts["problems"]["no_script"],
            "contact": texts["contact"],
            "privacy": texts["privacy"],
        }
        page = Template((STATIC / "index.html").read_text(encoding="utf-8"))
        return page.substitute({name: html.escape(value) for name, value in values.items()})

    # Who somebody is: a random cookie that carries the server's mark, so that nobody gets a fresh
    # allowance by making cookies up, and that the database knows as a hash only.

    def _mark(self, text):
        return hmac.new(self.salt.encode(), text.encode(), "sha256").hexdigest()[:32]

    def visitor(self, request):
        """The hash of a request's cookie; None without a valid one."""
        text, _, mark = request.cookies.get(COOKIE, "").partition(".")
        if not hmac.compare_digest(mark.encode(), self._mark(text).encode()):
            return None
        return sessions.sha256(text)

    # What a browser can ask for.

    async def page(self, request):
        answer = HTMLResponse(self.index, headers={"Cache-Control": "no-store"})
        if not self.visitor(request):
            text = secrets.token_urlsafe(24)
            answer.set_cookie(
                COOKIE,
                f"{text}.{self._mark(text)}",
                max_age=COOKIE_SECONDS,
                httponly=True,
                secure=request.url.scheme == "https",
                samesite="lax",  # strict would hide it from who comes by a panel's link
            )
        return answer

    async def favicon(self, _request):
        return Response((STATIC / "favicon.svg").read_bytes(), media_type="image/svg+xml")

    async def study(self, _request):
        return _json(self.public)

    async def session(self, request):
        return _json(await run_in_threadpool(self.store.read, self._state, self.visitor(request)))

    def _state(self, connection, who):
        session = who and sessions.find(connection, who)
        if not session:
            return {"state": "new" if who else "no_cookie"}
        # Names the browser's own store of unsent answers; the exported id stays here.
        state = {"state": "running", "key": sessions.sha256("outbox" + session.session)[:16]}
        if session.finished_at:
            return state | {"state": "finished", "thanks": sessions.thanks(session, self.protocol)}
        if sessions.is_expired(session, self.protocol):
            return state | {"state": "expired"}
        return state | sessions.overview(connection, session)

    async def image(self, request):
        token, who = request.path_params["token"], self.visitor(request) or ""
        content = await run_in_threadpool(self._photo, token, who)
        # No ETag and no date of change: each would be a name of the photo that outlives a session.
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(content, media_type="application/octet-stream", headers=headers)

    def _photo(self, token, who):
        stimulus = self.store.look_up(sessions.stimulus, token, who)
        if stimulus is None:
            raise Refusal(404, "no_photo")
        return self._bodies[stimulus]

    async def start(self, request):
        form = await _form(Start, request)
        if form.consent_version != self.protocol.consent.version:
            raise Refusal(409, "consent_changed", "reload the page and read it again")
        entry = {"way": "open"}
        if form.invitation:
            entry = {"way": "invitation", "invitation": form.invitation}
        elif form.panel:
            entry = {"way": "panel", "panel": form.panel}
        again = form.again and self.demo  # who looks around may do so twice
        await self._write(request, sessions.start, self.protocol, self.material, entry, again)
        return await self.session(request)

    async def present(self, request):
        form = await _form(Presentation, request)
        shown = await self._write(request, sessions.present, self.protocol, form.trial, form.id)
        return _json({"trial": form.trial, "pieces": [self._pieces[name] for name in shown]})

    async def answer(self, request):
        values = (await _form(Answer, request)).model_dump()
        return _json(
            await self._write(request, sessions.answer, self.protocol, self.material, values)
        )

    async def replies(self, request):
        form = await _form(Replies, request)
        given = (form.replies, form.agreed)
        return _json(await self._write(request, sessions.reply, self.protocol, *given))

    async def finish(self, request):
        await _form(Finish, request)
        return _json(await self._write(request, sessions.finish, self.protocol))

    async def _write(self, request, operation, *arguments):
        """Runs an operation for a visitor; returns when its outcome is safely stored."""
        who = self.visitor(request)
        if who is None:
            raise Refusal(401, "no_cookie", "open the page first, and let it set its cookie")
        return await asyncio.wrap_future(self.store.submit(operation, who, *arguments))

    def app(self):
        """The ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/favicon.ico", self.favicon),
            Route("/api/study", self.study),
            Route("/api/session", self.session),
            Route("/api/start", self.start, methods=["POST"]),
            Route("/api/presentations", self.present, methods=["POST"]),
            Route("/api/answers", self.answer, methods=["POST"]),
            Route("/api/replies", self.replies, methods=["POST"]),
            Route("/api/finish", self.finish, methods=["POST"]),
            Route("/image/{token}", self.image),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        handlers = {
            Refusal: _refuse,
            Unavailable: _unavailable,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
        }
        app = Starlette(routes=routes, exception_handlers=handlers)
        return Guard(app, self.visitor)


async def _form(model, request):
    """A request's body as a checked form."""
    try:
        return model.model_validate_json(await body(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refusal(422, "bad_form", f"{where}: {first['msg']}"[:300]) from None
    except ValueError as error:
        raise Refusal(*error.args) from None


def _json(content):
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


async def _refuse(_request, error):
    return refused(error.status, error.error, error.detail)


async def _unavailable(_request, _error):
    return refused(503, "unavailable", "nothing was stored; try again", {"Retry-After": "1"})


async def _http_error(_request, error):
    return refused(error.status_code, "no_page" if error.status_code == 404 else "bad_request")


async def _gone(_request, _error):
    return Response(status_code=400)


def serve(protocol, stimuli, database, port=8000, demo=False):
    """Serves a study on this machine's own address until it is stopped.

    A reverse proxy on the same machine connects it to the network (study/README.md).

    Raises:
        ColorlibError: see `Survey`; or the port is taken.
    """
    store = Store(database)
    try:
        survey = Survey(protocol, stimuli, store, demo)
        listener = listen(port)
        print(
            f"http://127.0.0.1:{listener.getsockname()[1]}/  {protocol.name}"
            f"{' (demonstration)' if demo else ''}, answers in {store.name}; Ctrl+C stops",
            flush=True,
        )
        http_server(survey.app()).run(sockets=[listener])
    finally:
        store.close()


def http_server(app):
    """uvicorn's server of an application."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would keep addresses, and panel ids from links
        server_header=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def listen(port):
    """A socket on this machine's own address; 0 is any free port.

    Raises:
        ColorlibError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ColorlibError(
            f"port {port}: can't be used ({error.strerror}); give another --port"
        ) from None
    return listener
