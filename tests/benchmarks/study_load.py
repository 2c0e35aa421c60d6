"""The survey under load and faults, over loopback: many people who answer at a steady pace.

    python tests/benchmarks/study_load.py [--people 500] [--kills 5]
    python tests/benchmarks/study_load.py --double                  # as many as p99 < 1 s bears
    python tests/benchmarks/study_load.py --database postgresql     # a server of its own

Everybody signs up first; then each fetches a photo, begins the trial and answers it every two
seconds, from a phase of their own. A kill is SIGKILL to the server, which is started again at once;
the people try again until they have a reply, as the page does. At the end, every confirmed answer
must be in the database exactly once, as it was given. Milliseconds are from sending an answer to
its confirmation: the time to start again is in them where there are kills.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parents[1]))  # for survey_parts

from survey_parts import PostgreSQL, Server, an_answer, make_stimuli, new_id, write_protocol

from colorlib import ColorlibError

RETRY = 0.2  # s between two tries
SIGN_UPS = 20  # at a time
LIMIT = 1000  # ms; --double stops at a p99 above it


class Line:
    """A connection to the server that is opened again when it breaks: HTTP/1.1 as far as needed.

    A ready-made client would take more of the two cores than the server does.
    """

    def __init__(self, port):
        self.port, self.cookie, self.streams = port, "", None
        self.address = ".".join(map(str, secrets.token_bytes(4)))  # as a reverse proxy tells it

    async def ask(self, method, path, body=None):
        """Asks until there is a reply that isn't the server's trouble; (status, content)."""
        while True:
            try:
                status, content = await self._ask(method, path, body)
                if status < 500 and status != 429:
                    return status, content
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                self.close()
            await asyncio.sleep(RETRY)

    async def _ask(self, method, path, body):
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: survey\r\nCookie: {self.cookie}\r\n"
        head += f"X-Forwarded-For: {self.address}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        writer.write(head.encode() + b"\r\n" + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        for line in lines:
            if line.lower().startswith("set-cookie: "):
                self.cookie = line.split(": ", 1)[1].split(";")[0]
        content = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), content

    def close(self):
        if self.streams:
            self.streams[1].close()
        self.streams = None


class Crowd:
    """People who take part at the same time, and what they were told."""

    def __init__(self, port, people, pause):
        self.lines = [Line(port) for _ in range(people)]
        self.pause, self.trials = pause, {}
        self.confirmed, self.waits = {}, []
        self.photo_waits, self.show_waits = [], []

    async def sign_up(self):
        gate = asyncio.Semaphore(SIGN_UPS)

        async def one(number, line):
            async with gate:
                await line.ask("GET", "/")
                _, study = await line.ask("GET", "/api/study")
                shown = json.loads(study)["protocol"]
                consent = {"protocol": shown, "adult": True, "agree": True}
                consent["key"] = secrets.token_hex(16)
                status, content = await line.ask("POST", "/api/start", consent)
                check(status, content)
                self.trials[number] = json.loads(content)["trials"]

        await asyncio.gather(*(one(*item) for item in enumerate(self.lines)))

    async def answer_all(self):
        await asyncio.gather(*(self._answer(*item) for item in enumerate(self.lines)))

    async def _answer(self, number, line):
        loop = asyncio.get_running_loop()
        turn = loop.time() + self.pause * (number + 0.5) / len(self.lines)
        for trial in self.trials[number]:
            start = time.perf_counter()
            status, content = await line.ask("GET", f"/image/{trial['photos'][0]}")
            check(status, content[:200])
            self.photo_waits.append(time.perf_counter() - start)
            start = time.perf_counter()
            begun = {"id": new_id(), "trial": trial["trial"]}
            check(*await line.ask("POST", "/api/presentations", begun))
            self.show_waits.append(time.perf_counter() - start)
            turn += self.pause
            await asyncio.sleep(max(turn - loop.time(), 0))
            answer = an_answer(trial["trial"])
            start = time.perf_counter()
            check(*await line.ask("POST", "/api/answers", answer))
            self.waits.append(time.perf_counter() - start)
            self.confirmed[answer["id"]] = answer
        status, content = await line.ask("POST", "/api/finish", {})
        check(status, content)
        if json.loads(content)["answers"] != len(self.trials[number]):
            raise ColorlibError(f"person {number}: the server counts {content.decode()}")
        line.close()


def check(status, content):
    if status != 200:
        raise ColorlibError(f"a request was refused: {status} {content[:300].decode()}")


async def kill_again(server, kills, seconds):
    for _ in range(kills):
        await asyncio.sleep(seconds / (kills + 1))
        await asyncio.to_thread(lambda: (server.kill(), server.start()))


def stored(database, confirmed):
    """How many answers are kept; how many confirmed ones are lost or altered; how many twice."""
    from sqlalchemy import select

    from study.survey.store import Store, answers

    store = Store(database, create=False)
    rows = store.read(lambda connection: connection.execute(select(answers)).mappings().all())
    store.close()
    by_id = {row["id"]: row for row in rows}
    lost = sum(
        name not in by_id or any(by_id[name][field] != answer[field] for field in answer)
        for name, answer in confirmed.items()
    )
    trials = {(row["session"], row["trial"]) for row in rows}
    return len(rows), lost, len(rows) - len(trials)


def measure(folder, database, people, arguments, kills):
    """One run; returns a row of the table."""

    async def run(server):
        crowd = Crowd(server.port, people, arguments.pause)
        start = time.perf_counter()
        await crowd.sign_up()
        signed_up = time.perf_counter() - start
        start = time.perf_counter()
        killing = kill_again(server, kills, arguments.answers * arguments.pause)
        await asyncio.gather(crowd.answer_all(), killing)
        return crowd, signed_up, time.perf_counter() - start

    with Server(folder / "protocol.toml", folder / "stimuli", database) as server:
        crowd, signed_up, seconds = asyncio.run(run(server))
    kept, lost, twice = stored(database, crowd.confirmed)
    p50, p99 = (1000 * np.quantile(crowd.waits, q) for q in (0.5, 0.99))
    return {
        "people": people,
        "kills": kills,
        "confirmed": len(crowd.confirmed),
        "stored": kept,
        "lost": lost,
        "twice": twice,
        "answers/s": len(crowd.waits) / seconds,
        "p50 ms": p50,
        "p99 ms": p99,
        "max ms": 1000 * max(crowd.waits),
        "photo p99 ms": 1000 * np.quantile(crowd.photo_waits, 0.99),
        "show p99 ms": 1000 * np.quantile(crowd.show_waits, 0.99),
        "sign-up s": signed_up,
    }


def runs(arguments):
    """(people, kills) of each run; what is sent back is the row that the last one gave."""
    if not arguments.double:
        yield arguments.people, 0
        if arguments.kills:
            yield arguments.people, arguments.kills
        return
    people, good = arguments.people, True
    while good:
        row = yield people, 0
        good = row["p99 ms"] < LIMIT
        people *= 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=500, help="at the same time")
    parser.add_argument("--answers", type=int, default=24, help="of each; even")
    parser.add_argument("--pause", type=float, default=2.0, help="s between two of a person's")
    parser.add_argument("--kills", type=int, default=5, help="in a second run (0: none)")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--double", action="store_true", help="people until p99 is over 1 s")
    arguments = parser.parse_args()
    if arguments.database == "postgresql" and not PostgreSQL.programs():
        parser.exit(1, PostgreSQL.MISSING + "\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection for each person
    folder = Path(tempfile.mkdtemp(prefix="colorlib-load-"))
    postgresql = None
    rows = []
    print(json.dumps({"cores": os.cpu_count(), "architecture": platform.machine()}), flush=True)
    try:
        make_stimuli(folder / "stimuli", scenes=arguments.answers, practice=0, catch=0, side=512)
        values = {"scenes": arguments.answers, "practice": 0, "catch": 0}
        write_protocol(folder / "protocol.toml", **values)
        if arguments.database == "postgresql":
            # Not below `folder`, which is closed to the user that PostgreSQL runs as.
            postgresql = PostgreSQL(tempfile.mkdtemp(prefix="colorlib-postgresql-"))
        planned = runs(arguments)
        people, kills = next(planned)
        while True:
            name = f"run{len(rows)}"
            database = postgresql.create(name) if postgresql else folder / f"{name}.sqlite3"
            rows.append(measure(folder, database, people, arguments, kills))
            table = pd.DataFrame(rows).assign(database=arguments.database)
            print(table.tail(1).to_string(index=False, float_format="{:.1f}".format), flush=True)
            people, kills = planned.send(rows[-1])
    except StopIteration:
        pass
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")
    finally:
        if postgresql:
            postgresql.stop()
            shutil.rmtree(postgresql.folder, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    if any(row["lost"] or row["twice"] for row in rows):
        parser.exit(1, "answers were lost or kept twice\n")


if __name__ == "__main__":
    main()
