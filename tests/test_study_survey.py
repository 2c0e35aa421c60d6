"""The survey's server and store, as people, hostile ones too, and the experimenter meet them."""

import base64
import csv
import http.client
import json
import re
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pandas as pd
import pytest

pytest.importorskip("sqlalchemy", reason="pip install -e '.[study]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update
from survey_parts import (
    ROOT,
    Person,
    PostgreSQL,
    Server,
    Study,
    an_answer,
    command,
    content,
    fill_in,
    make_stimuli,
    new_id,
    typed,
    wait_for,
    write_protocol,
)

from colorlib import ColorlibError
from study import protocol as protocols
from study.stimuli import Stimuli
from study.survey import store as tables
from study.survey.guards import HEADERS, MAX_BODY, SESSION_BURST, SESSION_RATE, Buckets
from study.survey.plan import Material
from study.survey.store import Store

# Who tries the survey has SQLite; PostgreSQL is one more system to start.
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory):
    return make_stimuli(tmp_path_factory.mktemp("survey") / "stimuli")


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    if not PostgreSQL.programs():
        pytest.skip(PostgreSQL.MISSING)
    import shutil
    import tempfile

    # Not below pytest's folders: these are closed to the user that PostgreSQL runs as.
    folder = tempfile.mkdtemp(prefix="colorlib-postgresql-")
    running = PostgreSQL(folder)
    yield running
    running.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(request, tmp_path):
    """A fresh database; parametrized by its kind."""
    kind = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        return str(tmp_path / "study.sqlite3")
    return request.getfixturevalue("postgresql").create(f"koala_{time.time_ns()}")


@pytest.fixture
def make(request, stimuli, tmp_path):
    """Makes a `Study` of a protocol; closes it at the end."""
    made = []

    usual = stimuli

    def make(
        name="balanced-yesno",
        database=tmp_path / "study.sqlite3",
        demo=True,
        stimuli=usual,
        **values,
    ):
        path = write_protocol(tmp_path / f"{name}-{len(made)}.toml", name, **values)
        if not demo:
            fill_in(path)
        made.append(Study(path, stimuli, database, demo))
        return made[-1]

    yield make
    for study in made:
        study.close()


@pytest.fixture
def study(make):
    return make()


# A person


@pytest.mark.parametrize("database", DATABASES, indirect=True)
@pytest.mark.parametrize("name", protocols.names())
def test_a_whole_session(make, name, database):
    study = make(name, database)
    person = study.person()
    assert person.get("/api/session").json() == {"state": "new"}
    choice = "first" if name == "2afc-1s" else "real"
    trials = person.take_part(choice, upto=3)
    early = person.post("/api/finish", {})
    assert early.status_code == 409 and early.json()["error"] == "incomplete"
    assert person.get("/api/session").json()["answered"] == [1, 2, 3]
    for trial in trials[3:]:
        assert person.answer(trial["trial"], choice).status_code == 200
    if study.survey.protocol.questions:
        question = study.survey.protocol.questions[0]
        given = {question.id: question.options[0].value}
        assert person.post("/api/replies", {"replies": given}).status_code == 200
    end = person.post("/api/finish", {}).json()
    assert end["answers"] == len(trials) == len(study.rows(tables.answers))
    assert re.fullmatch(r"(\w{4}-){2}\w{4}", end["withdrawal_code"])
    assert person.post("/api/finish", {}).json() == end, "the reply may have got lost"
    assert person.get("/api/session").json()["state"] == "finished"


def test_an_answer_that_comes_twice_is_kept_once(study):
    person = study.person()
    person.take_part(upto=0)
    person.show(1)
    answer = an_answer(1)
    for _ in range(3):
        assert person.post("/api/answers", answer).status_code == 200
    assert len(study.rows(tables.answers)) == 1
    for change in ({"answer": "fake"}, {"response_ms": 5.0}, {"trial": 2}):
        assert person.post("/api/answers", answer | change).status_code == 409
    assert person.answer(1, "fake").status_code == 409, "another id, the same trial"
    (row,) = study.rows(tables.answers)
    assert (row.id, row.trial, row.answer) == (answer["id"], 1, "real")


def test_practice_tells_the_truth_where_the_protocol_wants_it_and_nothing_else_does(make):
    study = make(practice_feedback=True)
    person = study.person()
    trials = person.take_part(upto=0)
    stimuli = {row.trial: row.stimulus for row in study.rows(tables.trials)}
    for trial in trials:
        reply = person.answer(trial["trial"], "fake").json()
        fake = study.survey.material.version[stimuli[trial["trial"]]] != "original"
        known = {"correct": fake} if trial["kind"] == "practice" else {}
        assert reply == {"trial": trial["trial"]} | known


def test_a_person_sees_a_scene_once_and_as_many_originals_as_colored_ones(stimuli, tmp_path):
    protocol = protocols.load(write_protocol(tmp_path / "p.toml"))
    photos = Stimuli.load(stimuli)
    material = Material(protocol, photos)
    key = photos.table.set_index("stimulus")
    orders = set()
    for number in material.lists * 10:
        plan = material.draw(number)
        shown = key.loc[[trial.stimulus for trial in plan]]
        assert shown["scene"].is_unique
        main = shown[[trial.kind == "main" for trial in plan]]
        assert sorted(main["version"]) == ["colored"] * 2 + ["original"] * 2
        assert [trial.kind for trial in plan[:2]] == ["practice"] * 2
        orders.add(tuple(trial.stimulus for trial in plan))
    assert len(orders) > 10, "the order is random"


def test_replication_shows_everybody_the_same_photos(make):
    study = make("replicate-2017")
    for _ in range(3):
        study.person().take_part(upto=0)
    seen = pd.DataFrame(study.rows(tables.trials, "session", "trial", "stimulus"))
    sets = seen.groupby("session")["stimulus"].agg(frozenset)
    assert len(sets) == 3 and sets.nunique() == 1


def test_pairs_hold_both_versions_of_a_scene_in_either_order(make):
    study = make("2afc-1s", scenes=8, practice=2, catch=2)
    for _ in range(3):
        study.person().take_part(upto=0)
    version, table = study.survey.material.version, study.survey.stimuli.table
    scene = table.set_index("stimulus")["scene"]
    first = []
    for row in study.rows(tables.trials):
        assert scene[row.stimulus] == scene[row.second_stimulus]
        both = {version[row.stimulus], version[row.second_stimulus]}
        assert both == {"original", "catch" if row.kind == "catch" else "colored"}
        first.append(version[row.stimulus] == "original")
    assert {True, False} <= set(first)


# Places, entries, ages


def test_lists_stay_balanced_when_many_come_at_once(make):
    study = make()
    people = [study.person() for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert all(reply.status_code == 200 for reply in pool.map(lambda p: p.start(), people))
    lists = [row.list for row in study.rows(tables.sessions)]
    assert lists.count(0) == lists.count(1) == 6


def _age(study, hours, where=True):
    """Lets sessions have begun so many hours ago."""
    moment = pd.Timestamp.now("UTC") - pd.Timedelta(hours=hours)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    study.change(update(tables.sessions).where(where).values(started_at=text))


def test_the_places_of_drop_outs_are_given_again(study):
    for _ in range(4):
        study.person().take_part(upto=2)
    _age(study, 30, tables.sessions.c.list == 0)
    for _ in range(2):
        study.person().take_part(upto=0)
    lists = [row.list for row in study.rows(tables.sessions)]
    assert lists.count(0) == 4 and lists.count(1) == 2


def test_a_session_is_taken_up_again_within_its_age_only(study):
    person = study.person()
    person.take_part(upto=3)
    _age(study, 23)
    state = person.get("/api/session").json()
    assert state["state"] == "running" and state["answered"] == [1, 2, 3]
    person.show(4)
    _age(study, 25)
    assert person.get("/api/session").json()["state"] == "expired"
    assert person.show(5).status_code == 409
    assert person.answer(4).status_code == 200, "what was given in time and sent late is kept"


def test_starting_twice_is_starting_once(study):
    person = study.person()
    assert person.start().json() == person.start().json()
    assert len(study.rows(tables.sessions)) == 1


def test_invitation_works_once(make, database):
    study = make(demo=False, ways=["invitation"])
    done = command("invite", "2", "--database", database, "--address", "https://example.org/")
    one, other = [line.rpartition("=")[2] for line in done.stdout.split()]
    assert done.stdout.startswith("https://example.org/?invitation=")
    assert study.person().start().json()["error"] == "bad_invitation", "the open link is closed"
    guest = study.person()
    guest.take_part(upto=1, invitation=one)
    assert study.person().start(invitation=one).json()["error"] == "elsewhere"
    assert guest.start(invitation=one).json()["answered"] == [1], "its own guest goes on"
    study.person().take_part(upto=0, invitation=other)
    for trial in guest.get("/api/session").json()["trials"][1:]:
        guest.answer(trial["trial"])
    assert guest.post("/api/finish", {}).status_code == 200
    for used in (study.person().start(invitation=one), study.person().enter(invitation=one)):
        assert used.json()["error"] == "bad_invitation", "told before consent, too"
    assert study.person().start(invitation="ABCD-EFGH-JKMN").status_code == 403


def test_no_invitation_is_made_that_opens_nothing(make, database):
    study = make(demo=False, ways=["open", "panel"])
    said = command("invite", "1", "--database", database, code=2).stderr
    assert "entry.ways is open, panel: nobody could enter by an invitation" in said
    assert len(said.splitlines()) == 1 and not study.rows(tables.invitations)


def test_panel_id_is_kept_as_a_hash_and_excludes_nobody(make, database):
    study = make(demo=False, completion_code="C0FFEE")
    person = study.person()
    person.take_part(panel="5f3e-panel-person")
    assert person.post("/api/finish", {}).json()["completion_code"] == "C0FFEE"
    study.person().take_part(upto=0, panel="5f3e-panel-person")
    study.person().take_part(upto=0, panel="another-person")
    rows = study.rows(tables.sessions)
    assert [row.panel_repeat for row in rows] == [False, True, False]
    assert not any(row.repeat for row in rows), "the flag that excludes"
    assert len({row.participant for row in rows}) == 3
    study.close()
    assert b"5f3e-panel-person" not in content(database)


def test_open_link_flags_who_comes_again(make):
    study = make(demo=False)
    person = study.person()
    person.take_part(upto=1)
    _age(study, 30)
    assert person.start(key="1" * 32).json()["state"] == "expired"
    assert person.start(key="1" * 32, another=True).json()["state"] == "running"
    assert [row.repeat for row in study.rows(tables.sessions)] == [False, True]
    person = study.person()
    person.take_part()
    person.post("/api/finish", {})
    assert person.start(key="2" * 32).json()["state"] == "finished", "once finished is finished"


def test_nothing_personal_is_kept(make, database):
    study = make()
    person = study.person(**{"User-Agent": "Peculiar/1.0", "X-Forwarded-For": "203.0.113.77"})
    person.take_part()
    _, cookie = person.cookie()
    study.close()
    kept = content(database)
    for text in ("Peculiar", "203.0.113.77", "127.0.0.1", cookie, cookie.split(".")[0]):
        assert text.encode() not in kept


# Who means harm


def test_strangers_and_other_peoples_photos(study):
    one, other = study.person(), study.person()
    token = one.take_part(upto=0)[0]["photos"][0]
    other.take_part(upto=0)
    assert one.get(f"/image/{token}").status_code == 200
    assert other.get(f"/image/{token}").status_code == 404
    assert one.get(f"/image/{'0' * 32}").status_code == 404
    stranger = study.person()
    assert stranger.get(f"/image/{token}").status_code == 404
    assert stranger.answer(1).status_code == 401
    assert stranger.post("/api/finish", {}).status_code == 401
    stranger.http.cookies.clear()
    name, value = one.cookie()
    for made_up in ("made-up." + "0" * 32, value[:-1], value + "0", "." + value.partition(".")[2]):
        stranger.http.cookies.set(name, made_up)
        assert stranger.get("/api/session").json() == {"state": "new"}
        assert stranger.answer(1).status_code == 401


def test_answers_after_the_end_or_to_no_trial_are_refused(study):
    person = study.person()
    trials = person.take_part(upto=0)
    assert person.answer(len(trials) + 1).status_code == 404
    assert person.answer(1, "first").status_code == 422
    for trial in trials:
        person.answer(trial["trial"])
    person.post("/api/finish", {})
    assert person.answer(1).status_code == 409
    late = {"replies": {"age": "18-29"}}
    assert person.post("/api/replies", late).json()["error"] == "finished"
    assert len(study.rows(tables.answers)) == len(trials)


@pytest.mark.parametrize(
    "path",
    [
        "/api/enter",
        "/api/start",
        "/api/continue",
        "/api/withdraw",
        "/api/presentations",
        "/api/answers",
        "/api/replies",
        "/api/finish",
    ],
)
def test_bad_bodies_get_a_short_no(study, path):
    person = study.person()
    person.take_part(upto=0)
    kind = {"Content-Type": "application/json"}

    def send(body, headers=kind):
        return person.http.post(path, content=body, headers=headers).status_code

    assert send(b"[" * 10_000) == 422
    assert send(b'{"a": ' + b'"' + b"x" * MAX_BODY + b'"}') == 413
    assert send(iter([b"{" + b" " * 5000] * 10)) == 413, "its length was not told"
    assert send(b"\xff\xfe") == send(b"") == send(b"{") == send(b"null") == 422
    assert send(b"{}", {"Content-Type": "text/plain"}) == 415
    assert send(b"{}", {}) == 415
    foreign = kind | {"Sec-Fetch-Site": "cross-site"}
    assert send(b"{}", foreign) == 403


def test_script_and_odd_characters_in_every_field_are_refused(study):
    person = study.person()
    person.take_part(upto=0)
    for odd in (
        "<script>alert(1)</script>",
        "\0",
        "'; DROP TABLE answers; --",
        "\ud83d",
        "x" * 300,
    ):
        for field in an_answer(1):
            body = json.dumps(an_answer(1) | {field: odd})
            kind = {"Content-Type": "application/json"}
            assert person.http.post("/api/answers", content=body, headers=kind).status_code == 422
        for body in ({odd: "18-29"}, {"age": odd}):
            text = json.dumps({"replies": body})
            kind = {"Content-Type": "application/json"}
            assert person.http.post("/api/replies", content=text, headers=kind).status_code == 422
    assert not study.rows(tables.answers) and not study.rows(tables.replies)


def test_nothing_else_is_served(study):
    person = study.person()
    person.take_part(upto=0)
    cookie = {"Cookie": "=".join(person.cookie())}
    for path in (
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/%2e%2e/__main__.py",
        "/static//etc/passwd",
        "/image/..%2f..%2fkey.csv",
        "/image/",
        "/export",
        "/api/export",
        "/key.csv",
        "/study.sqlite3",
        "/.git/config",
    ):
        raw = http.client.HTTPConnection(study.address.removeprefix("http://"))
        raw.request("GET", path, headers=cookie)  # httpx would tidy up the path
        assert raw.getresponse().status == 404, path
        raw.close()


def test_every_reply_carries_the_headers_of_security(study):
    person = study.person()
    token = person.take_part(upto=0)[0]["photos"][0]
    for path in ("/", "/static/survey.js", "/api/study", f"/image/{token}", "/nothing"):
        headers = person.get(path).headers
        for name, value in HEADERS.items():
            assert headers[name] == value
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith(
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "font-src 'self' data:"
    )
    cookie = study.person().start().headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie


def test_no_reply_tells_what_is_what(study):
    person = study.person()
    key = study.survey.stimuli.table
    names = {*key["stimulus"], *key["scene"], *key["source"], *key["sha256"], "swap", "catch"}
    trials = person.take_part(upto=0)
    seen, replies = set(), []
    for trial in trials:
        assert set(trial) == {"trial", "kind", "photos"} and trial["kind"] in ("practice", "main")
        begun = person.show(trial["trial"])
        for token, piece in zip(trial["photos"], begun.json()["pieces"], strict=True):
            reply = person.get(f"/image/{token}")
            for part in (reply, begun):
                part.headers.pop("date", None)
            length = len(reply.content) + len(base64.b64decode(piece))
            assert length == study.survey.stimuli.info["bytes"]
            seen.add((*reply.headers.items(), *begun.headers.items()))
        replies.append(person.answer(trial["trial"]).text)
    assert len(seen) == 1, "all photos have the same headers, but for the time of the day"
    replies += [person.get(path).text for path in ("/", "/api/session")] + [str(seen)]
    assert not [name for name in names for text in replies if name in text]
    other = study.person()
    tokens = {token for trial in trials for token in trial["photos"]}
    assert not tokens & {token for trial in other.take_part(upto=0) for token in trial["photos"]}


BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)


def _near(form):
    """Bodies that are a valid one but for a few fields."""
    fields = st.sampled_from([*form, "extra"])
    return st.dictionaries(fields, BODIES, max_size=2).map(lambda changes: form | changes)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        pytest.param(
            *(
                "/api/start",
                {"protocol": "0" * 64, "adult": True, "agree": True, "key": "a" * 32},
            ),
            marks=pytest.mark.slow,
        ),
        ("/api/answers", an_answer(1)),
        pytest.param(*("/api/presentations", {"id": new_id(), "trial": 1}), marks=pytest.mark.slow),
        pytest.param(
            *("/api/replies", {"replies": {"age": "60"}, "agreed": ["color_vision"]}),
            marks=pytest.mark.slow,
        ),
        pytest.param("/api/finish", {}, marks=pytest.mark.slow),
        pytest.param("/api/enter", {"invitation": "x", "panel": "y"}, marks=pytest.mark.slow),
        pytest.param(
            *("/api/continue", {"invitation": "x", "key": "a" * 32}), marks=pytest.mark.slow
        ),
        pytest.param("/api/withdraw", {"code": "K3QF-9TXA-M2WD"}, marks=pytest.mark.slow),
    ],
)
def test_endpoints_bear_whatever_is_sent(make, path, form):
    study = make()
    # Rates have a test of their own.
    study.app.sessions = study.app.addresses = Buckets(1e9, 1e9)
    person = study.person()
    person.take_part(upto=0)
    person.show(1)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(_near(form) | BODIES)
    def send(body):
        content = json.dumps(body, ensure_ascii=True)
        kind = {"Content-Type": "application/json"}
        reply = person.http.post(path, content=content, headers=kind)
        assert reply.status_code in (200, 401, 403, 404, 409, 413, 422), reply.text
        reply.json()

    send()
    kept = study.rows(tables.answers)
    assert {row.answer for row in kept} <= {"real", "fake"} and len(kept) <= 1


@pytest.fixture
def server(stimuli, tmp_path):
    protocol = write_protocol(tmp_path / "protocol.toml")
    with Server(protocol, stimuli, tmp_path / "study.sqlite3") as server:
        yield server


def test_one_client_at_full_speed_does_not_slow_down_the_others(server):
    hostile, stop, heard = Person(server.address), threading.Event(), []
    hostile.start()

    def attack():
        while not stop.is_set():
            heard.append(hostile.answer(1).status_code != 429)

    thread = threading.Thread(target=attack)
    begin = time.monotonic()
    thread.start()
    try:
        waits = []
        for _ in range(4):
            person = Person(server.address)
            for trial in person.start().json()["trials"]:
                start = time.perf_counter()
                assert person.answer(trial["trial"]).status_code == 200
                waits.append(time.perf_counter() - start)
    finally:
        stop.set()
        thread.join()
    assert statistics.quantiles(waits, n=100, method="inclusive")[98] < 2, "p99, s"
    assert sum(heard) <= SESSION_BURST + SESSION_RATE * (time.monotonic() - begin)


def test_a_session_asks_only_so_often(study):
    first, second = study.person(), study.person()
    for person in (first, second):
        person.take_part(upto=0)
    study.app.sessions = Buckets(0, 3)
    replies = [first.http.post("/api/answers", json={}).status_code for _ in range(5)]
    assert replies == [422, 422, 422, 429, 429]
    assert second.http.post("/api/answers", json={}).status_code == 422


def test_a_bucket_fills_again(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("study.survey.guards.time.monotonic", lambda: clock[0])
    bucket = Buckets(2, 3)
    assert [bucket.take("somebody") for _ in range(4)] == [True, True, True, False]
    clock[0] += 0.6
    assert [bucket.take("somebody") for _ in range(2)] == [True, False]
    clock[0] += 1000
    assert [bucket.take("somebody") for _ in range(4)] == [True, True, True, False]


def test_one_address_does_not_begin_sessions_without_end(study):
    study.app.starts = Buckets(0, 2)
    first = study.person()
    first.take_part(upto=0)
    study.person().take_part(upto=0)
    assert study.person().start().status_code == 429
    assert first.answer(1).status_code == 200, "who has begun goes on"
    assert len(study.rows(tables.sessions)) == 2


# Never lose an answer


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_every_confirmed_answer_survives_kills(kind):
    """The load command, small: it fails where a confirmed answer is not in the database once."""
    if kind == "postgresql" and not PostgreSQL.programs():
        pytest.skip(PostgreSQL.MISSING)
    script = ROOT / "tests" / "benchmarks" / "study_load.py"
    options = ["--people", "6", "--answers", "6", "--pause", "0.5", "--kills", "2"]
    done = subprocess.run(
        [sys.executable, script, *options, "--database", kind], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()[1:]]
    for header, row in (table[:2], table[2:]):
        counts = dict(zip(header, row, strict=False))
        assert counts["confirmed"] == counts["stored"] == "36"
        assert counts["lost"] == counts["twice"] == "0"


def test_sqlite_flushes_each_commit_and_waits_its_turn(make, database):
    study = make()
    person = study.person()
    person.take_part(upto=0)
    pragmas = [
        study.store.read(lambda c, p=p: c.exec_driver_sql(f"PRAGMA {p}").scalar())
        for p in ("journal_mode", "synchronous", "secure_delete")
    ]
    assert pragmas == ["wal", 2, 1]
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(person.answer, 1)
        time.sleep(0.5)
        assert not reply.done(), "somebody else writes"
        other.execute("COMMIT")
        assert reply.result(30).status_code == 200
    other.close()


def test_a_refused_operation_leaves_its_neighbors_alone(tmp_path):
    store = Store(tmp_path / "neighbors.sqlite3")

    def note(connection, text, fail=False):
        connection.execute(insert(tables.withdrawals).values(withdrawn_at=text))
        if fail:
            raise KeyError(text)

    futures = [store.submit(note, str(number), number % 3 == 0) for number in range(30)]
    failed = [number for number, future in enumerate(futures) if future.exception()]
    assert failed == list(range(0, 30, 3))
    rows = store.read(
        lambda c: c.execute(select(tables.withdrawals.c.withdrawn_at)).scalars().all()
    )
    assert sorted(map(int, rows)) == [number for number in range(30) if number % 3]
    store.close()


def test_a_database_that_takes_nothing_confirms_nothing(make, database):
    study = make()
    person = study.person()
    person.take_part(upto=0)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT missing(); END")
    reply = person.answer(1)
    assert reply.status_code == 503 and reply.json()["error"] == "unavailable"
    other.execute("DROP TRIGGER full")
    other.close()
    assert person.answer(1).status_code == 200, "trying again is right"


@pytest.mark.parametrize("database", DATABASES[1:], indirect=True)
def test_connections_that_the_database_has_dropped_are_replaced(make, database):
    study = make(database=database)
    person = study.person()
    photos = person.take_part(upto=1)[2]["photos"]
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    drop = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
    other = Store(database, create=False)
    assert other.read(lambda connection: connection.exec_driver_sql(drop).all())
    other.close()
    assert person.get(f"/image/{photos[0]}").status_code == 200
    assert person.answer(2).status_code == 200


# The experimenter


@pytest.mark.slow
@pytest.mark.parametrize("name", ["balanced-yesno", "2afc-1s"])
def test_export_agrees_with_its_dictionary_and_the_analysis(make, tmp_path, name):
    from study.answers import read_export

    database = tmp_path / "study.sqlite3"
    study = make(name, database, practice=2, catch=1)
    choices = ("first", "second") if name == "2afc-1s" else ("real", "fake")
    for choice in choices:
        person = study.person()
        trials = person.take_part(choice)
        replies = {"age": "18-29", "color_vision": "typical"}
        body = {"replies": replies, "agreed": ["color_vision"]}
        assert person.post("/api/replies", body).status_code == 200
        assert person.post("/api/finish", {}).status_code == 200
    study.person().take_part(choices[0], upto=3)
    study.close()
    folder = tmp_path / "export"
    done = typed("export", "--output", folder, "--database", database)
    assert f"{3 * len(trials)} trials, 3 participants" in done.stdout

    description = json.loads((folder / "dataset_description.json").read_text())
    assert description["@type"] == "Dataset"
    measured = {item["name"] for item in description["variableMeasured"]}
    dictionary = pd.read_csv(folder / "data_dictionary.csv")
    for table in ("trials", "participants", "images", "withdrawals"):
        file = folder / "data" / f"study-koala_table-{table}_data.csv"
        text = pd.read_csv(file, dtype=str, keep_default_na=False)
        told = dictionary[dictionary["table"] == table].set_index("column")
        assert list(text) == list(told.index) and set(text) <= measured
        _check_columns(text, told)
        parquet = pd.read_parquet(file.with_suffix(".parquet"))
        assert list(parquet) == list(text) and len(parquet) == len(text)

    exported = read_export(folder)
    assert exported.mode == study.survey.protocol.mode
    trials_ = exported.trials
    missing = trials_["answer"].isna()
    assert missing.sum() == len(trials) - 3, "empty, not 'fake'"
    assert trials_.loc[missing, ["said_real", "correct", "response_ms"]].isna().all(axis=None)
    if name == "balanced-yesno":
        said = trials_["answer"] == "real"
        right = said == (trials_["version"] == "original")
        assert (trials_["correct"] == right)[~missing].all()
    people = exported.participants.sort_values("started_at")
    assert list(people["complete"]) == [1, 1, 0]
    assert list(people["excluded_incomplete"]) == [0, 0, 1]
    assert list(people["question_age"].fillna("")) == ["18-29", "18-29", ""]
    again = command("export", "--output", folder, "--database", database, code=2)
    assert "is not empty" in again.stderr


@pytest.mark.slow
def test_export_is_safe_in_a_spreadsheet_and_without_panel_ids_if_asked(make, tmp_path):
    from study.answers import milliseconds, read_export

    tables_of = {}
    database, evil = tmp_path / "study.sqlite3", "=HYPERLINK(A1)"
    study = make(database=database)
    for number in range(6):
        study.person().take_part(upto=2 * (number == 0), panel=f"person-{number}")
    study.change(update(tables.images).values(source=evil))
    (row, *_) = study.rows(tables.sessions, "panel_hash")
    study.close()
    for folder, options in (("whole", []), ("open", ["--without-panel"])):
        typed("export", "--output", tmp_path / folder, *options, "--database", database)
        files = sorted((tmp_path / folder).rglob("*.csv"))
        assert len(files) == 5
        for path in files:
            with open(path, encoding="utf-8", newline="") as file:
                cells = [cell for line in csv.reader(file) for cell in line]
            assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
        # The analysis and Parquet have the text as it is.
        assert set(read_export(tmp_path / folder).images["source"]) == {evil}
        images = tmp_path / folder / "data" / "study-koala_table-images_data.parquet"
        assert set(pd.read_parquet(images)["source"]) == {evil}
        people = read_export(tmp_path / folder).participants
        written = [path.read_bytes() for path in (tmp_path / folder).rglob("*") if path.is_file()]
        hashed = any(row.panel_hash.encode() in content for content in written)
        named = any(b"panel_hash" in content for content in written)
        assert ("panel_hash" in people) == hashed == named == (folder == "whole")
        tables_of[folder] = read_export(tmp_path / folder)
    # Nor does the hour tell a panel whose answers these are; the times between are as they were.
    whole, open_ = (tables_of[name].participants for name in ("whole", "open"))
    assert (open_["started_at"].str[10:] == "T00:00:00.000Z").all()
    assert (open_["started_at"].str[:10] == whole["started_at"].str[:10]).all()
    for name in ("released_at", "received_at", "shown_at"):
        before, after = (tables_of[folder].trials for folder in ("whole", "open"))
        moved = milliseconds(after[name], before[name]).round()  # floats
        assert moved.groupby(before["session"]).nunique().max() == 1
    # 12e45678... would be a number.
    assert people["participant"].str.match("[a-f]").all() and len(people) == 6
    assert people["session"].str.match("[a-f]").all()


def _check_columns(table, told):
    """Every cell is of its column's type and levels, or empty."""
    for column in table:
        cells = table.loc[table[column] != "", column]
        levels = told["levels"][column]
        if isinstance(levels, str):
            assert set(cells) <= {part.split(":")[0] for part in levels.split("; ")}, column
        if told["type"][column] == "boolean":
            assert set(cells) <= {"true", "false"}, column
        elif told["type"][column] in ("int", "float"):
            assert pd.to_numeric(cells).notna().all(), column
        assert isinstance(told["description"][column], str)


def test_withdrawal_deletes_a_person_and_leaves_a_tombstone(make, tmp_path):
    database = tmp_path / "study.sqlite3"
    study = make(database=database, demo=False)
    code = None
    for _ in range(2):
        person = study.person()
        person.take_part()
        code = person.post("/api/finish", {}).json()["withdrawal_code"]
    done = command("withdraw", code.lower(), "--database", database)
    assert "7 answers deleted" in done.stdout
    assert person.get("/api/session").json() == {"state": "new"}
    assert person.answer(1).status_code == 401
    every = (tables.answers, tables.presentations, tables.trials, tables.tokens, tables.sessions)
    for table in every:
        assert len(study.rows(table, "session")) == (1 if table is tables.sessions else 7)
    (tombstone,) = study.rows(tables.withdrawals)
    assert set(tombstone._mapping) == {"id", "withdrawn_at", "tombstone"}
    unknown = command("withdraw", code, "--database", database, code=2)
    assert "no such code" in unknown.stderr
    assert code.encode() not in content(database), "overwritten, not just unlinked"


def test_who_reads_holds_up_neither_a_withdrawal_nor_answers(make, tmp_path, monkeypatch):
    monkeypatch.setattr("study.survey.server.WATCH_SECONDS", 0.05)
    database = tmp_path / "study.sqlite3"
    study = make(database=database, demo=False)
    person, other = study.person(), study.person()
    person.take_part()
    other.take_part(upto=1)
    code = person.post("/api/finish", {}).json()["withdrawal_code"]
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM answers").fetchone()
        began = time.monotonic()
        assert other.post("/api/withdraw", {"code": code}).status_code == 200
        assert other.answer(2).status_code == 200
        assert time.monotonic() - began < 5
        assert code.encode() in content(database), "somebody reads it"
    wait_for(lambda: code.encode() not in content(database))


def test_live_mode_refuses_until_the_protocol_is_filled_in(stimuli, tmp_path):
    path = write_protocol(tmp_path / "p.toml")
    arguments = ["--stimuli", stimuli, "--database", tmp_path / "x.sqlite3"]
    done = command("serve", "--protocol", path, *arguments, code=2)
    for field in ("contact.name", "contact.email", "ethics.statement", "retention.anonymized_on"):
        assert field in done.stderr
    assert not (tmp_path / "x.sqlite3").exists()


def test_a_database_belongs_to_one_study(make, stimuli, database, tmp_path):
    make(database=database)
    other = make_stimuli(tmp_path / "other")
    for change in ({"demo": False}, {"stimuli": other}, {"name": "replicate-2017"}):
        with pytest.raises(ColorlibError, match="begun with another study"):
            make(database=database, **change)


def test_too_few_stimuli_are_told_at_the_start(make):
    with pytest.raises(ColorlibError, match="the protocol wants 20.*make more stimuli"):
        make(scenes=40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--output", "x", "--database", "nowhere.sqlite3"], "no such database"),
        (["withdraw", "ABC", "--database", "mysql://a/b"], "give a SQLite file"),
        (["serve", "--protocol", "nothing"], "no such protocol"),
        (["serve", "--demo", "--stimuli", "nowhere"], "holds no stimuli"),
        (["invite", "2", "--database", "postgresql://nobody@127.0.0.1:1/x"], "can't be opened"),
    ],
)
def test_mistakes_get_one_line(arguments, message):
    done = typed(*arguments, code=2)
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_power_tells_people_and_photos():
    options = ["--people", "10,20", "--photos", "12", "--studies", "3", "--width", "0.5"]
    done = command("power", *options)
    assert "acceptance_width" in done.stdout and "People needed for a width of 0.5" in done.stdout
    assert "call 46 % of the colored photos real, and 67 % of the originals" in done.stdout


def test_power_depends_on_the_rates_that_are_supposed():
    options = ["--people", "40", "--photos", "24", "--studies", "20"]
    found = []
    for accepted in ("0.3", "0.6"):
        said = command("power", *options, "--accepted", accepted, "--original", "0.65").stdout
        (row,) = [line.split() for line in said.splitlines() if line.split()[:2] == ["40", "24"]]
        found.append(float(row[-1]))
    assert found[0] == 1 and found[1] < 0.6
    done = typed("power", "--accepted", "46", code=2)
    assert "accepted: must be a rate above 0 and below 1. Received: 46" in done.stderr


def test_help_answers_without_heavy_imports():
    heavy = {"tensorflow", "keras", "scipy", "sqlalchemy", "pandas", "starlette"}
    script = (
        "import sys; from study.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_vendored_files_say_their_version_and_license():
    folder = ROOT / "study" / "survey" / "static" / "vendor"
    text = (folder / "LICENSE").read_text()
    packages = list(folder.glob("*/package.json"))
    assert len(packages) == 4 and "Permission is hereby granted" in text
    for path in packages:
        package = json.loads(path.read_text())
        assert f"{path.parent.name}/: {package['name']} {package['version']}\n" in text
        assert package["license"] == "MIT"
