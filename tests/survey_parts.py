"""What the tests and the load test of the survey share: small stimuli, protocols, a real server.

These stimuli need no network to color them: the "colored" version of a photo has its red and blue
channels exchanged.
"""

import hashlib
import io
import itertools
import json
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image

from colorlib import photos

ROOT = Path(__file__).parents[1]
CHANNELS = {"original": (0, 1, 2), "colored": (2, 1, 0), "catch": (1, 2, 0)}


def make_stimuli(folder, scenes=8, practice=2, catch=2, side=96):
    """Writes stimuli, as `study.stimuli` does, from packaged photos or crops of them."""
    (folder / "images").mkdir(parents=True)
    rows, files = [], {}
    paths = list(photos.packaged("sample")["path"])
    kinds = ["main"] * scenes + ["practice"] * practice + ["catch"] * catch
    crops = _crops(paths, side) if len(kinds) > len(paths) else _whole(paths, side)
    for number, (kind, photo) in enumerate(zip(kinds, crops, strict=False)):
        for version in ("original", "catch" if kind == "catch" else "colored"):
            pixels = np.asarray(photo)[..., CHANNELS[version]]
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "jpeg", quality=85)
            stimulus = secrets.token_hex(8)
            files[stimulus] = buffer.getvalue()
            method = {"original": "", "colored": "swap", "catch": "random"}[version]
            row = (stimulus, f"s{number + 1:03}", version, method, paths[number % len(paths)].name)
            rows.append((*row, *photo.size, kind))
    length = max(map(len, files.values())) + 64
    for stimulus, content in files.items():
        files[stimulus] = content + secrets.token_bytes(length - len(content))
        (folder / "images" / f"{stimulus}.jpg").write_bytes(files[stimulus])
    columns = ["stimulus", "scene", "version", "method", "source", "width", "height", "kind"]
    table = pd.DataFrame(rows, columns=columns).sort_values("stimulus")
    table["sha256"] = [hashlib.sha256(files[name]).hexdigest() for name in table["stimulus"]]
    order = ["stimulus", "scene", "version", "method", "source", "sha256", "width", "height"]
    tables = {"key": table[order], "lists": _lists(table, "main")}
    tables["practice"] = _lists(table, "practice")
    info = {"name": folder.name, "created": "2027-01-01", "media_type": "image/jpeg"}
    info |= {"bytes": length, "presets": [{"name": "swap"}], "seed": 1}
    for name, content in tables.items():
        text = content.to_csv(index=False, lineterminator="\n").encode()
        (folder / f"{name}.csv").write_bytes(text)
        info[f"{name}_sha256"] = hashlib.sha256(text).hexdigest()
    (folder / "stimuli.json").write_text(json.dumps(info))
    return folder


def _whole(paths, side):
    for path in paths:
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((side, side))
        yield photo


def _crops(paths, side):
    """Random squares of the photos, without end."""
    rng = np.random.default_rng(1)
    originals = list(_whole(paths, 4 * side))
    for number in itertools.count():
        photo = originals[number % len(originals)]
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        yield photo.crop((left, top, left + side, top + side))


def _lists(table, kind):
    """Two lists, on which each scene is in turn as it is and colored."""
    rows = []
    part = table[table["kind"] == kind]
    for number in (0, 1):
        for index, (scene, versions) in enumerate(part.groupby("scene")):
            version = ("original", "colored")[(index + number) % 2]
            stimulus = versions.set_index("version")["stimulus"][version]
            rows.append((number, scene, version, stimulus))
    return pd.DataFrame(rows, columns=["list", "scene", "version", "stimulus"])


_OF_NONE = {
    "practice": (r"There are \{practice_photos\} photos for practice first and", "There are"),
    "catch": (r" In \{catch_photos\} [^.]*\.", ""),
}


def write_protocol(path, name="balanced-yesno", **values):
    """Writes a packaged protocol with other values, each by its (unique) field's name."""
    text = (ROOT / "study" / "protocols" / f"{name}.toml").read_text(encoding="utf-8")
    defaults = {"scenes": 4, "practice": 2, "catch": 1, "min_catch_correct": 0}
    if name == "replicate-2017":
        defaults |= {"practice": 0, "catch": 0}
    values = defaults | values
    for field, (sentence, rest) in _OF_NONE.items():  # would speak of none
        if not values[field]:
            text = re.sub(sentence, rest, text)
    for field, value in values.items():
        text, count = re.subn(
            rf"(?m)^{field} = [^#\n]*", f"{field} = {json.dumps(value)} ", text, count=1
        )
        assert count, f"{name} has no {field}"
    path.write_text(text, encoding="utf-8")
    return path


LIVE = {
    "statement": "Approved.",
    "approval": "1/2027",
    "email": "study@example.org",
    "anonymized_on": "2099-01-01",
    "delete_after": "2099-06-01",
}


def fill_in(path, **changes):
    """Fills in what live mode needs."""
    text = path.read_text(encoding="utf-8")
    values = LIVE | changes
    text = text.replace('name = ""', 'name = "A. Researcher"', 1)
    for field, value in values.items():
        text = re.sub(rf'(?m)^{field} = ""', f'{field} = "{value}"', text)
    path.write_text(text, encoding="utf-8")
    return path


class Server:
    """`python -m study serve` in a process of its own, as a user starts it."""

    def __init__(self, protocol, stimuli, database, demo=True):
        self.command = [sys.executable, "-m", "study", "serve", "--protocol", str(protocol)]
        self.command += ["--stimuli", str(stimuli), "--database", str(database)]
        self.command += ["--demo"] if demo else []
        self.database = database
        self.port = 0
        self.start()

    def start(self):
        """Starts it, at the second time on the same port; waits until it answers."""
        self.process = subprocess.Popen(
            [*self.command, "--port", str(self.port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), f"the server did not start: {line}"
        self.address = line.split("/  ")[0]
        self.port = int(self.address.rpartition(":")[2])

    def kill(self):
        """Ends it without warning, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """Ends it as Ctrl+C does."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()


class Study:
    """A survey that is served by a thread of this process, with its database and its people."""

    def __init__(self, protocol, stimuli, database, demo=True):
        from study import protocol as protocols
        from study.stimuli import Stimuli
        from study.survey.server import Survey, http_server, listen
        from study.survey.store import Store

        self.database = database
        self.store = Store(database)
        self.survey = Survey(protocols.load(protocol), Stimuli.load(stimuli), self.store, demo)
        self.app = self.survey.app()
        listener = listen(0)
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = http_server(self.app)
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()

    def person(self, **headers):
        return Person(self.address, headers=headers)

    def rows(self, table, *columns):
        from sqlalchemy import select

        query = select(*[table.c[name] for name in columns]) if columns else select(table)
        return self.store.read(lambda connection: connection.execute(query).all())

    def change(self, statement):
        self.store.write(lambda connection: connection.execute(statement))

    def close(self):
        if self.thread.is_alive():
            self.server.should_exit = True
            self.thread.join()
            self.store.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Person:
    """Somebody who takes part through HTTP, without a browser."""

    def __init__(self, address, **options):
        import httpx

        self.http = httpx.Client(base_url=address, timeout=60, **options)
        self.http.get("/").raise_for_status()
        self.key = secrets.token_hex(16)

    def get(self, path):
        return self.http.get(path)

    def post(self, path, body):
        return self.http.post(path, json=body)

    def start(self, **entry):
        shown = self.get("/api/study").json()["protocol"]
        consent = {"protocol": shown, "adult": True, "agree": True, "key": self.key}
        return self._speak_for(self.post("/api/start", consent | entry))

    def go_on(self, invitation):
        """Goes on with what was begun by an invitation in another browser."""
        return self._speak_for(
            self.post("/api/continue", {"invitation": invitation, "key": self.key})
        )

    def show(self, trial):
        """Begins a trial, as the page does before it draws the photo."""
        return self.post("/api/presentations", {"id": new_id(), "trial": trial})

    def enter(self, **link):
        """Opens a link, as the page does before consent."""
        return self._speak_for(self.post("/api/enter", link))

    def _speak_for(self, reply):
        if reply.status_code == 200:
            self.http.headers["X-Entry"] = reply.json()["entry"]
        return reply

    def cookie(self):
        """The name and the value of the only cookie."""
        (cookie,) = self.http.cookies.jar
        return cookie.name, cookie.value

    def answer(self, trial, answer="real", **changes):
        """Begins a trial and answers it."""
        self.show(trial)
        return self.post("/api/answers", an_answer(trial, answer) | changes)

    def take_part(self, answer="fake", upto=None, **entry):
        """Answers everything, or the first trials; returns all trials."""
        started = self.start(**entry)
        assert started.status_code == 200, started.text
        trials = started.json()["trials"]
        for trial in trials[:upto]:
            reply = self.answer(trial["trial"], answer)
            assert reply.status_code == 200, reply.text
        return trials


def new_id():
    hexes = secrets.token_hex(16)
    return "-".join((hexes[:8], hexes[8:12], hexes[12:16], hexes[16:20], hexes[20:]))


def an_answer(trial, answer="real"):
    """A complete answer as a browser sends it."""
    return {
        "id": new_id(),
        "trial": trial,
        "answer": answer,
        "response_ms": 812.0,
        "viewport_width": 1200,
        "viewport_height": 900,
        "pixel_ratio": 1.5,
        "zoom": 1.0,
        "image_width_css": 640.5,
        "focus_lost_ms": 0.0,
        "shown_at": "2027-01-01T12:00:00.000Z",
    }


def typed(*arguments, code=0):
    """The command as a user types it, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "study", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr or done.stdout
    assert "Traceback" not in done.stderr
    return done


class PostgreSQL:
    """A server of its own in a temporary folder, from the system's packages (Debian's layout)."""

    MISSING = "no PostgreSQL to start: install the system's package `postgresql`"

    def __init__(self, folder):
        import os

        self.folder, self.bin = Path(folder), self.programs()
        # PostgreSQL refuses to run as root; Debian's package brings a user for it.
        self.user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.user:
            shutil.chown(self.folder, "postgres")
        data = self.folder / "data"
        self._run("initdb", "-D", data, "-U", "koala", "--auth=trust", "-E", "UTF8", "--no-sync")
        self.port = free_port()
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        self._run(
            "pg_ctl", "-D", data, "-w", "-o", options, "-l", self.folder / "log",
            "start",
        )  # fmt: skip

    @staticmethod
    def programs():
        """The folder of initdb and pg_ctl, or None."""
        found = shutil.which("pg_ctl")
        folders = [Path(found).parent] if found else []
        folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        return next((f for f in folders if (f / "initdb").exists()), None)

    def create(self, name):
        """Makes a database; returns its URL."""
        import psycopg

        url = f"postgresql://koala@127.0.0.1:{self.port}"
        with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{url}/{name}"

    def stop(self):
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")

    def _run(self, program, *arguments):
        command = [*self.user, self.bin / program, *arguments]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, cwd=self.folder
        )
        # pg_ctl's server inherits the pipes; nothing else is said there.
        assert done.returncode == 0, f"{program}: {done.stderr or done.stdout}"


def free_port():
    import socket

    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def command(*arguments, code=0):
    """`python -m study` in this process; returns what it says."""
    from study.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        returned = main([str(argument) for argument in arguments])
    said = SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())
    assert returned == code, said.stderr or said.stdout
    return said


def content(database):
    """All that lies on the disk of a SQLite database."""
    folder, name = Path(database).parent, Path(database).name
    return b"".join(path.read_bytes() for path in folder.glob(f"{name}*"))


def wait_for(condition, seconds=60):
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
