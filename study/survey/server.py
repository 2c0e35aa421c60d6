"""The survey's server: a page, its photos, and the few requests that deliver answers."""

import asyncio
import base64
import contextlib
import html
import socket
from pathlib import Path
from string import Template

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from colorlib import ColorlibError
from study.survey import entry, forms, log, payment, retention, sessions, versions, withdrawal
from study.survey.guards import Guard, refused
from study.survey.plan import Material
from study.survey.store import Refusal, Store, Unavailable, note, today

STATIC = Path(__file__).parent / "static"
WATCH_SECONDS = 30  # between two looks at the calendar and at the last error
EVERY = 16  # photos.js puts the bytes back


def withhold(content) -> tuple[bytes, bytes]:
    """Splits a photo's file: what a browser may fetch ahead, and what makes a photo of it.

    Every 16th byte is withheld until the trial begins. No viewer shows what is left: the code of a
    JPEG isn't read across a gap. (Who writes a program that guesses what is missing sees parts.)
    What is withheld is small enough to come at once. So photos are fetched ahead, and yet the
    server knows when each could be seen first, and how often. A cipher would do the same with a key
    instead of bytes, but browsers offer ciphers on https only, and Python has none.

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
        versions.mark(store)
        self.salt = store.write(versions.adopt, protocol, stimuli, demo)
        withdrawal.synchronize(store)
        retention.carry_out(store)
        self.cookies = entry.Cookies(self.salt, protocol)
        self._tell()
        self.index = self._index()
        # In memory, so that no photo comes faster for having been asked for before.
        self._bodies, self._pieces = {}, {}
        for stimulus in self.material.version:
            self._bodies[stimulus], piece = withhold(stimuli.read(stimulus))
            self._pieces[stimulus] = base64.b64encode(piece).decode()
        self.public = {
            "protocol": protocol.sha256,
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

    def _tell(self):
        """Logs what whoever runs the study should know before anybody comes."""
        for line in self.protocol.told_at_start():
            log.log.warning(line)
        day = self.protocol.exclusions.preregistered_on
        if not self.demo and (not day or day > today()):
            log.log.warning(
                "exclusions.preregistered_on is %s: the analysis will say that the rules were not "
                "fixed before the first answer",
                day or "empty",
            )

    def _index(self):
        texts = self.protocol.page_texts()["texts"]
        values = {
            "language": self.protocol.language,
            "direction": self.protocol.direction,
            "title": texts["title"],
            "demo": texts["demo"] if self.demo else "",
            "loading": texts["connection"]["loading"],
            "no_script": texts["problems"]["no_script"],
            "contact": texts["contact"],
            "privacy": texts["privacy"],
        }
        page = Template((STATIC / "index.html").read_text(encoding="utf-8"))
        return page.substitute({name: html.escape(value) for name, value in values.items()})

    def visitor(self, request):
        """The hash of the cookie of whom a request speaks for; None without a valid one."""
        return self.cookies.visitor(request)

    def _browser(self, request):
        """The hash of any of a browser's cookies, for the limit of its rate."""
        return self.visitor(request) or next(iter(self.cookies.of(request).values()), None)

    # What a browser can ask for.

    async def page(self, _request):
        return HTMLResponse(self.index, headers={"Cache-Control": "no-store"})

    async def favicon(self, _request):
        return Response((STATIC / "favicon.svg").read_bytes(), media_type="image/svg+xml")

    async def study(self, _request):
        return _json(self.public)

    async def enter(self, request):
        form = await forms.read(forms.Enter, request)
        cookies = self.cookies.of(request)
        return _json(await run_in_threadpool(self.store.read, self._enter, form.entrance, cookies))

    def _enter(self, connection, entrance, cookies):
        tag = self.cookies.tag(entrance)
        if entrance.way == "open":  # the bare address: whatever was begun in this browser
            tag = entry.latest(connection, self.protocol, cookies) or tag
        state = {"entry": tag} | self._state(connection, cookies.get(tag))
        if state["state"] == "new":
            state["state"] = entry.admit(connection, self.salt, self.protocol, entrance)
            if entrance.way == "panel":
                hashed = entry.panel_hash(self.salt, entrance.name)
                state["declined"] = self._completion(hashed, "declined")
        return state

    async def session(self, request):
        return _json(await run_in_threadpool(self.store.read, self._state, self.visitor(request)))

    def _state(self, connection, who):
        session = who and sessions.find(connection, who)
        if not session:
            return {"state": "new"}
        # Names the browser's own store of unsent answers; the exported id stays here.
        state = {"state": "running", "key": entry.sha256("outbox" + session.session)[:16]}
        if session.finished_at:
            # Who comes back may be somebody else: the withdrawal code was shown once, at the end.
            return state | {"state": "finished"} | self._completion(session.panel_hash)
        if sessions.is_changed(session, self.protocol):
            return state | {"state": "changed"}  # the page now shows what the person has not read
        if sessions.is_expired(session, self.protocol):
            return state | {"state": "expired"}
        state["withdrawal_code"] = session.withdrawal_code
        state["stopped"] = self._completion(session.panel_hash, "stopped")
        return state | sessions.overview(connection, session)

    def _completion(self, hashed, outcome="finished"):
        return payment.completion(self.protocol, self.salt, hashed, outcome)

    async def image(self, request):
        token, who = request.path_params["token"], list(self.cookies.of(request).values())
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
        form = await forms.read(forms.Start, request)
        if form.protocol != self.protocol.sha256:
            raise Refusal(409, "consent_changed", "reload the page and read it again")
        tag = self.cookies.tag(form.entrance)
        who = self.cookies.hash_for(tag, form.key)
        before = self.cookies.of(request).get(tag)
        # Who comes by the open link may be somebody else; who looks around may do so twice.
        another = form.another and (self.demo or form.entrance.way == "open")
        arguments = (self.protocol, self.material, form.entrance, before, another)
        begun = await self._submit(sessions.start, who, *arguments)
        return await self._welcome(request, tag, form.key, begun.cookie_hash)

    async def go_on(self, request):
        form = await forms.read(forms.Continue, request)
        entrance = entry.Entrance("invitation", form.invitation)
        tag = self.cookies.tag(entrance)
        who = self.cookies.hash_for(tag, form.key)
        # Who tries codes doesn't stand in the line of those who write.
        await run_in_threadpool(self.store.read, entry.admit, self.salt, self.protocol, entrance)
        await self._submit(entry.go_on, who, self.salt, self.protocol, form.invitation)
        return await self._welcome(request, tag, form.key, who)

    async def _welcome(self, request, tag, key, who):
        """The state of a session that a browser has from now on, with its cookie."""
        state = await run_in_threadpool(self.store.read, self._state, who)
        reply = _json({"entry": tag} | state)
        if who == self.cookies.hash_for(tag, key):
            self.cookies.give(reply, tag, key, secure=request.url.scheme == "https")
        return reply

    async def withdraw(self, request):
        form = await forms.read(forms.Withdraw, request)
        await run_in_threadpool(self.store.read, withdrawal.check, form.code, self.protocol)
        if await self._submit(withdrawal.withdraw, form.code) is not None:
            await run_in_threadpool(self.store.forget)
            try:
                await run_in_threadpool(withdrawal.synchronize, self.store)
            except ColorlibError as error:  # deleted it is; the next start writes the file
                log.log.error("%s", error)
        reply, who = _json({}), self.visitor(request)
        if who and not await run_in_threadpool(self.store.read, sessions.find, who):
            self.cookies.take(reply, self.cookies.named(request), request.url.scheme == "https")
        return reply

    async def present(self, request):
        form = await forms.read(forms.Presentation, request)
        shown = await self._write(request, sessions.present, self.protocol, form.trial, form.id)
        return _json({"trial": form.trial, "pieces": [self._pieces[name] for name in shown]})

    async def answer(self, request):
        values = (await forms.read(forms.Answer, request)).model_dump()
        return _json(
            await self._write(request, sessions.answer, self.protocol, self.material, values)
        )

    async def replies(self, request):
        form = await forms.read(forms.Replies, request)
        given = (form.replies, form.agreed)
        return _json(await self._write(request, sessions.reply, self.protocol, *given))

    async def finish(self, request):
        await forms.read(forms.Finish, request)
        return _json(await self._write(request, sessions.finish, self.protocol))

    async def _write(self, request, operation, *arguments):
        """Runs an operation for a visitor; returns when its outcome is safely stored."""
        who = self.visitor(request)
        if who is None:
            raise Refusal(401, "no_session", "consent comes first")
        return await self._submit(operation, who, *arguments)

    async def _submit(self, operation, *arguments):
        return await asyncio.wrap_future(self.store.submit(operation, *arguments))

    # What happens without being asked for.

    @contextlib.asynccontextmanager
    async def _watched(self, _app):
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self):
        """Carries out at midnight what the protocol promises, and keeps the last error for all."""
        day, kept = None, None
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                if today() != day:
                    await run_in_threadpool(retention.carry_out, self.store)
                    day = today()
                if self.store.unforgotten:  # Somebody read while a person withdrew.
                    await run_in_threadpool(self.store.forget)
                if log.last_error() not in (None, kept):
                    await run_in_threadpool(self.store.write, note, "last_error", log.last_error())
                    kept = log.last_error()
            except Unavailable:
                pass  # logged where it happened; the next round tries again
            except Exception:
                log.log.exception("what is promised could not be carried out")

    def app(self):
        """The ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/favicon.ico", self.favicon),
            Route("/api/study", self.study),
            Route("/api/session", self.session),
            Route("/api/enter", self.enter, methods=["POST"]),
            Route("/api/start", self.start, methods=["POST"]),
            Route("/api/presentations", self.present, methods=["POST"]),
            Route("/api/continue", self.go_on, methods=["POST"]),
            Route("/api/withdraw", self.withdraw, methods=["POST"]),
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
            Exception: _failed,
        }
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._watched)
        return Guard(app, self._browser, self.protocol.panel.frame_ancestors)


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


async def _failed(_request, _error):  # uvicorn logs it
    return refused(500, "failed", "nothing was stored; try again")


def serve(protocol, stimuli, database, port=8000, demo=False):
    """Serves a study on this machine's own address until it is stopped.

    A reverse proxy on the same machine connects it to the network (study/README.md).

    Raises:
        ColorlibError: see `Survey`; or the port is taken.
    """
    log.set_up()
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
        log_config=None,  # study.survey.log has set it up
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
