"""What a study promises and shows, kept: its protocol by hash, its dates, its schema, its log."""

import json
import re
import shutil
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from time import time_ns

import pytest

pytest.importorskip("sqlalchemy", reason="pip install -e '.[study]'")

from sqlalchemy import event, inspect, select, text
from survey_parts import (
    PostgreSQL,
    Study,
    an_answer,
    command,
    content,
    fill_in,
    free_port,
    make_stimuli,
    wait_for,
    write_protocol,
)

from colorlib import ColorlibError
from study import protocol as protocols
from study.answers import read_export
from study.survey import log, migrations, retention, server
from study.survey import store as tables
from study.survey.store import Store

pytestmark = pytest.mark.slow  # all of it: a minute or two
SCHEMA_1 = Path(__file__).parent / "study_reference" / "schema-1.sql"


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory):
    return make_stimuli(tmp_path_factory.mktemp("promises") / "stimuli")


@pytest.fixture
def database(tmp_path):
    return str(tmp_path / "study.sqlite3")


@pytest.fixture
def make(stimuli, tmp_path, database):
    """Makes a `Study` for real people of a protocol with other values and other texts."""
    made = []

    def make(name="balanced-yesno", texts=(), live=(), demo=False, **values):
        path = write_protocol(tmp_path / f"protocol-{len(made)}.toml", name, **values)
        fill_in(path, **dict(live))
        words = path.read_text(encoding="utf-8")
        for old, new in dict(texts).items():
            assert old in words
            words = words.replace(old, new, 1)
        path.write_text(words, encoding="utf-8")
        made.append(Study(path, stimuli, database, demo))
        return made[-1]

    yield make
    for study in made:
        study.close()


@pytest.fixture
def moved(monkeypatch):
    """Moves the clock of the study to a time of day, which then stands still."""

    def move(text):
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        monkeypatch.setattr(tables, "clock", lambda: moment)

    return move


# The protocol as shown


def test_a_session_keeps_the_hash_of_the_protocol_that_was_shown(make, database, tmp_path):
    study = make()
    person = study.person()
    shown = person.get("/api/study").json()["protocol"]
    person.take_part(upto=1)
    (session,) = study.rows(tables.sessions)
    (kept,) = study.rows(tables.protocols)
    assert session.protocol_sha256 == shown == kept.sha256
    assert sha256(kept.content.encode()).hexdigest() == shown
    assert protocols.kept(kept.content) == (study.survey.protocol, [])
    command("export", "--output", tmp_path / "export", "--database", database)
    exported = (tmp_path / "export" / "protocol.json").read_bytes()
    assert sha256(exported).hexdigest() == shown
    assert list(read_export(tmp_path / "export").participants["protocol_sha256"]) == [shown]


def test_nobody_agrees_to_what_the_page_has_not_shown(make):
    study = make()
    person = study.person()
    old = {"protocol": "0" * 64, "adult": True, "agree": True, "key": "a" * 32}
    reply = person.post("/api/start", old)
    assert (reply.status_code, reply.json()["error"]) == (409, "consent_changed")
    assert not study.rows(tables.sessions)


SWAPPED = {'first_answer = "Real"': 'first_answer = "Fake"'}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"texts": SWAPPED}, "texts.trial.first_answer"),
        ({"texts": {'first_key = "r"': 'first_key = "g"'}}, "texts.trial.first_key"),
        ({"texts": {"bad comes of it": "good comes of it"}}, "consent.body.2"),
        ({"texts": {"18 to 29": "18 to 30"}}, "questions.1.options.0.label"),
        ({"live": {"delete_after": "2099-07-01"}}, "retention.delete_after"),
        ({"min_response_ms": 100}, "exclusions.min_response_ms"),
        ({"scenes": 2}, "design.scenes"),
    ],
)
def test_what_people_agreed_to_is_not_changed_under_its_version(make, change, field):
    study = make()
    study.person().take_part(upto=1)
    study.close()
    told = f"1 sessions of people who agreed to version 1 .*other values of {field}.*`version`"
    with pytest.raises(ColorlibError, match=told) as error:
        make(**change)
    assert "\n" not in str(error.value)
    make().person().take_part(upto=1)  # as it was, it goes on


def test_another_version_goes_on_in_the_same_database_and_stays_apart(make, database, tmp_path):
    first = make()
    done, stopped = first.person(), first.person()
    trials = done.take_part()
    done.post("/api/finish", {})
    stopped.take_part(upto=2)
    stopped.show(3)
    first.close()

    second = make(texts={'version = "1"': 'version = "2"', **SWAPPED})
    for person in (done, stopped):
        person.http.base_url = second.address
    assert done.get("/api/session").json()["state"] == "finished"
    assert stopped.get("/api/session").json()["state"] == "changed"
    late = stopped.post("/api/answers", an_answer(3, "real"))
    assert late.status_code == 200, "was shown before, and sent late"
    new = second.person()
    new.take_part(upto=1)
    assert [row.list for row in second.rows(tables.sessions)] == [0, 1, 0], "lists begin anew"
    second.close()

    folder = tmp_path / "export"
    told = command("export", "--output", folder, "--database", database).stdout
    assert f"{3 * len(trials)} trials, 3 participants" in told
    one, two = sorted(folder.iterdir())
    assert one.name.startswith("version-1-") and two.name.startswith("version-2-")
    assert [len(read_export(part).participants) for part in (one, two)] == [2, 1]
    labels = [
        json.loads((part / "protocol.json").read_text())["texts"]["trial"] for part in (one, two)
    ]
    assert [part["first_answer"] for part in labels] == ["Real", "Fake"]
    with pytest.raises(ColorlibError, match=f"several versions.*{one.name}, {two.name}"):
        read_export(folder)


def test_a_page_that_outlives_its_server_loses_nothing(make):
    """It stays open while another version starts: its replies are those that the person saw."""
    first = make()
    through, halfway = first.person(), first.person()
    through.take_part()
    halfway.take_part(upto=2)
    first.close()
    second = make(texts={'version = "1"': 'version = "2"', 'value = "hobby"': 'value = "leisure"'})
    for person in (through, halfway):
        person.http.base_url = second.address
    given = {"replies": {"photography": "hobby"}, "agreed": []}
    assert through.post("/api/replies", given).status_code == 200
    assert through.post("/api/finish", {}).status_code == 200
    (kept,) = second.rows(tables.replies)
    assert (kept.question, kept.value) == ("photography", "hobby")
    refused = halfway.show(3)
    assert (refused.status_code, refused.json()["error"]) == (409, "changed")


def test_until_somebody_agrees_the_protocol_may_change(make):
    make().close()
    study = make(texts=SWAPPED)
    (kept,) = study.rows(tables.protocols)
    assert '"first_answer": "Fake"' in kept.content


def test_a_demonstration_may_change_and_keeps_each_protocol(make):
    first = make(demo=True)
    first.person().take_part(upto=1)
    first.close()
    second = make(demo=True, texts=SWAPPED)
    second.person().take_part(upto=1)
    assert len({row.protocol_sha256 for row in second.rows(tables.sessions)}) == 2


# Dates


def test_days_of_the_protocol_are_carried_out_at_midnight(
    make, moved, monkeypatch, capsys, database
):
    monkeypatch.setattr(server, "WATCH_SECONDS", 0.05)
    log.set_up()
    moved("2027-03-29T23:59:58")
    study = make(live={"anonymized_on": "2027-03-31", "delete_after": "2027-06-01"})
    person = study.person()
    person.take_part(panel="somebody")
    code = person.post("/api/finish", {}).json()["withdrawal_code"]
    command("invite", "1", "--database", database)
    leaves = study.person()
    leaves.take_part(upto=1)
    (gone,) = {row.withdrawal_code for row in study.rows(tables.sessions)} - {code}
    command("withdraw", gone, "--database", database)
    assert study.store.tombstones.exists()

    moved("2027-03-30T00:00:01")  # Who began now would be cut off at midnight.
    assert study.person().start().json()["error"] == "closed"
    moved("2027-03-31T00:00:01")
    wait_for(lambda: study.rows(tables.protocols)[0].anonymized_at)
    (row,) = study.rows(tables.sessions)
    assert row.started_at == row.finished_at == "2027-03-29T00:00:00.000Z"
    assert {answer.received_at for answer in study.rows(tables.answers)} == {row.started_at}
    assert (row.cookie_hash, row.panel_hash, row.withdrawal_code) == ("", None, row.session)
    assert study.person().start().json()["error"] == "closed"
    assert study.person().enter().json()["error"] == "closed"
    assert len(study.rows(tables.answers)) == 7
    late = command("withdraw", code, "--database", database, code=2)
    assert "anonymous are version 1's since 2027-03-31" in late.stderr

    moved("2027-06-01T12:00:00")
    command("status", "--database", database)
    assert study.rows(tables.sessions), "deleted after this day"
    moved("2027-06-02T00:00:01")
    wait_for(lambda: study.rows(tables.protocols)[0].deleted_at)
    for table in ("answers", "trials", "tokens", "sessions", "invitations", "withdrawals"):
        assert not study.rows(tables.metadata.tables[table]), table
    wait_for(lambda: not study.store.tombstones.exists())
    study.store.tombstones.write_text("{}\n")  # as if a server had been killed before
    command("status", "--database", database)
    assert not study.store.tombstones.exists()
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if "retention." in line]
    assert re.search(r"1 sessions of version 1 anonymized .*anonymized_on: 2027-03-31", told[0])
    assert re.search(r"1 sessions of version 1 deleted .*delete_after: 2027-06-01", told[1])
    study.close()
    assert code.encode() not in content(database) and row.session.encode() not in content(database)


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "--output", "x"],
        ["withdraw", "X"],
        ["invite", "1"],
        ["status"],
        ["pause"],
        ["resume"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_carries_out_the_days(
    make, moved, database, arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    study = make(live={"anonymized_on": "2027-03-31"})
    moved("2027-03-01T12:00:00")
    study.person().take_part()
    study.close()
    moved("2027-04-01T12:00:00")
    code = 2 if arguments[0] == "withdraw" else 0
    said = command(*arguments, "--database", database, code=code).stderr
    assert "1 sessions of version 1 anonymized" in said
    again = command(
        *arguments[:1],
        *arguments[1:],
        "--database",
        database,
        code=2 if code or arguments[0] == "export" else 0,
    )
    assert "anonymized (" not in again.stderr, "once"


def test_the_server_carries_out_at_its_start_what_each_version_has_promised(make, moved):
    moved("2027-03-01T12:00:00")
    first = make(live={"anonymized_on": "2027-03-31"})
    first.person().take_part(upto=1)
    first.close()
    second = make(texts={'version = "1"': 'version = "2"'})  # with days in 2099
    second.person().take_part(upto=1)
    second.close()
    moved("2027-04-01T12:00:00")
    third = make(texts={'version = "1"': 'version = "2"'})
    assert sorted(row.cookie_hash == "" for row in third.rows(tables.sessions)) == [False, True]
    assert third.person().start().status_code == 200


def of_sessions(store):
    """{table: the sessions of its rows, one after the other as they lie in the database}."""
    place = "ctid" if store.url.get_backend_name() == "postgresql" else "rowid"
    names = ("sessions", "trials", "tokens", "presentations", "answers", "replies")

    def read(connection):
        rows = {name: text(f"SELECT session FROM {name} ORDER BY {place}") for name in names}
        return {name: list(connection.execute(query).scalars()) for name, query in rows.items()}

    return {name: list(dict.fromkeys(found)) for name, found in store.read(read).items()}


def take_part_in_turn(study, count=7):
    """People who come one after the other and answer side by side."""
    people = [study.person() for _ in range(count)]
    for person in people:
        person.take_part(upto=0)
        person.post("/api/replies", {"replies": {"age": "60"}})
    for trial in range(1, 8):
        for person in people:
            assert person.answer(trial).status_code == 200
    return of_sessions(study.store)["sessions"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_row_tells_by_its_place_who_came_when(stimuli, moved, tmp_path, request, kind):
    moved("2027-03-01T12:00:00")
    path = fill_in(write_protocol(tmp_path / "p.toml"), anonymized_on="2027-03-31")
    database = tmp_path / "study.sqlite3"
    if kind == "postgresql":
        database = request.getfixturevalue("postgresql").create(f"order_{time_ns()}")
    with Study(path, stimuli, database, demo=False) as study:
        came = take_part_in_turn(study)
        assert of_sessions(study.store)["answers"] == came
        before = {name: set(study.rows(table)) for name, table in tables.metadata.tables.items()}
        moved("2027-04-01T12:00:00")
        retention.carry_out(study.store)
        assert study.store.read(retention.since)
        for name, sessions in of_sessions(study.store).items():
            assert sessions == sorted(came), name
        for name in ("trials", "tokens", "replies"):
            assert set(study.rows(tables.metadata.tables[name])) == before[name]
        assert len(study.rows(tables.answers)) == 7 * 7


def test_an_export_does_not_tell_by_its_rows_who_came_when(make, database, tmp_path):
    study = make()
    came = take_part_in_turn(study)
    leaves = study.person()
    leaves.take_part(upto=1)
    command("withdraw", study.rows(tables.sessions)[-1].withdrawal_code, "--database", database)
    for folder, options in (("whole", []), ("open", ["--without-panel"])):
        command("export", "--output", tmp_path / folder, *options, "--database", database)
        exported = read_export(tmp_path / folder)
        assert list(exported.participants["session"]) == sorted(came)
        assert list(exported.trials["session"].unique()) == sorted(came)
    (gone,) = study.rows(tables.withdrawals)
    name = "data/study-koala_table-withdrawals_data.csv"
    told = [(tmp_path / folder / name).read_text().split()[1] for folder in ("whole", "open")]
    assert told == [gone.withdrawn_at, gone.withdrawn_at[:10]], "no hours"


def test_what_an_older_version_made_anonymous_loses_its_order_too(make, moved, database):
    moved("2027-03-01T12:00:00")
    study = make(live={"anonymized_on": "2027-03-31"})
    came = take_part_in_turn(study)
    study.close()
    with sqlite3.connect(database) as connection:  # as schema 2 left it
        connection.executescript(
            "UPDATE protocols SET anonymized_at = '2027-03-31T00:00:00.000Z';"
            "UPDATE meta SET value = '2' WHERE name = 'schema';"
        )
    connection.close()
    moved("2027-04-01T12:00:00")
    assert "7 sessions of version 1 anonymized" in command("status", "--database", database).stderr
    store = Store(database)
    assert all(found == sorted(came) for found in of_sessions(store).values())
    store.close()


def test_an_older_database_forgets_which_invitations_were_used(make, database):
    study = make(ways=["invitation"])
    one, other = command("invite", "2", "--database", database).stdout.split()
    study.person().take_part(upto=1, invitation=one)
    study.close()
    hashed = sha256(one.encode()).hexdigest()
    with sqlite3.connect(database) as connection:  # as schema 2 left it
        connection.execute("DELETE FROM invitations WHERE used_at IS NOT NULL")
        row = (hashed, "2027-01-01T12:00:00.000Z", "2027-01-02")
        connection.execute("INSERT INTO invitations VALUES (?, ?, ?)", row)
        connection.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
    connection.close()
    study = make(ways=["invitation"])
    used, unused = sorted(study.rows(tables.invitations), key=lambda row: row.used_at is None)
    assert (used.created_at, used.used_at) == ("2027-01-02", "2027-01-02")
    assert unused.code_hash == sha256(other.encode()).hexdigest()
    assert study.person().enter(invitation=one).json()["state"] == "elsewhere", "it goes on"
    assert study.person().start(invitation=other).status_code == 200
    study.close()
    assert hashed.encode() not in content(database)


@pytest.mark.parametrize(
    ("day", "sentence"),
    [
        ("", "have no date of preregistration"),
        ("2027-03-01", "were preregistered on 2027-03-01 .*first answer was given on 2027-03-02"),
        ("2027-03-02", "were preregistered on 2027-03-02"),
        ("2027-03-03", "dated 2027-03-03.*first answer .*2027-03-02: they were not preregistered"),
    ],
)
def test_preregistration_is_held_against_the_first_answer(
    make, moved, database, tmp_path, day, sentence, capsys
):
    log.set_up()
    moved("2027-03-02T12:00:00")
    study = make(preregistered_on=day, registry="https://osf.io/x")
    late = day in ("", "2027-03-03")
    assert ("exclusions.preregistered_on is" in capsys.readouterr().err) == late
    study.person().take_part(upto=1)
    command("export", "--output", tmp_path / "export", "--database", database)
    assert re.search(sentence, read_export(tmp_path / "export").preregistration)
    assert re.search(sentence, command("status", "--database", database).stdout)


# The schema


@pytest.fixture(scope="module")
def postgresql():
    if not PostgreSQL.programs():
        pytest.skip(PostgreSQL.MISSING)
    import tempfile

    folder = tempfile.mkdtemp(prefix="colorlib-postgresql-")
    running = PostgreSQL(folder)
    yield running
    running.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request, database, tmp_path, monkeypatch):
    """A database of schema 1, in which one person has finished and another has begun."""
    monkeypatch.chdir(tmp_path)  # PostgreSQL's tombstones lie in the present folder
    script = SCHEMA_1.read_text(encoding="utf-8")
    if request.param == "sqlite":
        with sqlite3.connect(database) as connection:
            connection.executescript(script)
        connection.close()
        return database
    import psycopg

    url = request.getfixturevalue("postgresql").create(f"old_{time_ns()}")
    with psycopg.connect(url) as connection:
        connection.execute(script.replace("id INTEGER NOT NULL", "id SERIAL NOT NULL"))
    return url


def schema(store):
    """{table: {column: (type, whether it may be empty)}} and the indexes of a database."""

    def read(connection):
        there = inspect(connection)
        return {
            name: (
                {c["name"]: (str(c["type"]), c["nullable"]) for c in there.get_columns(name)},
                sorted(index["name"] for index in there.get_indexes(name)),
            )
            for name in sorted(there.get_table_names())
        }

    return store.read(read)


def test_an_old_database_becomes_what_a_new_one_is(old, tmp_path, request):
    """A column that a change of the schema adds must be reached from schema 1, too."""
    log.set_up()
    migrated = Store(old)
    fresh = tmp_path / "fresh.sqlite3"
    if "postgresql" in old:
        fresh = request.getfixturevalue("postgresql").create(f"fresh_{time_ns()}")
    new = Store(fresh)
    assert schema(migrated) == schema(new)
    for store in (migrated, new):
        assert store.read(migrations.version) == migrations.VERSION
        store.close()


@pytest.mark.parametrize(
    "arguments",
    [["invite", "1"], ["status"], ["pause"], ["resume"]],
    ids=lambda arguments: arguments[0],
)
def test_every_command_brings_an_old_database_to_the_present(old, arguments):
    said = command(*arguments, "--database", old).stderr
    assert "brought from schema 1 to" in said
    assert "brought from" not in command(*arguments, "--database", old).stderr, "once"


def test_old_answers_are_exported_and_withdrawn(old, tmp_path):
    said = command("export", "--output", tmp_path / "export", "--database", old).stderr
    assert "brought from schema 1 to" in said
    assert "kept by another version" in said and "design.minutes" in said
    exported = read_export(tmp_path / "export")
    people = exported.participants.set_index("session")["complete"]
    assert people.to_dict() == {"aaaa": 1, "bbbb": 0} and len(exported.trials) == 4
    assert exported.participants["protocol_sha256"].notna().all()
    assert "1 answers deleted" in command("withdraw", "aaaa-bbbb-bbbb", "--database", old).stdout
    assert "2 answers deleted" in command("withdraw", "AAAA-BBBB-AAAA", "--database", old).stdout


def test_a_server_of_before_may_go_on_beside_a_newer_command(old, tmp_path):
    command("status", "--database", old)  # brings the database to the present
    statement = text(  # as the server of before begins a session
        "INSERT INTO sessions (session, participant, cookie_hash, entry, consent_version, list, "
        "repeat, started_at, withdrawal_code) VALUES "
        "('cccc', 'pcccc', 'ccccc', 'open', '1', 0, false, '2027-01-04T12:00:00.000Z', 'C')"
    )
    store = Store(old)
    store.write(lambda connection: connection.execute(statement))
    store.close()
    command("export", "--output", tmp_path / "export", "--database", old)
    people = read_export(tmp_path / "export").participants
    assert len(people) == 3 and people["protocol_sha256"].nunique() == 1


@pytest.fixture
def newer(make, database):
    """A database as a later version may make it: its protocol, tables and columns are more."""
    study = make()
    person = study.person()
    person.take_part()
    code = person.post("/api/finish", {}).json()["withdrawal_code"]
    study.close()
    with sqlite3.connect(database) as connection:
        connection.executescript(
            "UPDATE meta SET value = '99' WHERE name = 'schema';"
            "ALTER TABLE answers ADD COLUMN pupil FLOAT NOT NULL DEFAULT 3.5;"
            "CREATE TABLE glances (id INTEGER PRIMARY KEY, session VARCHAR(16) NOT NULL "
            "REFERENCES sessions (session));"
            "INSERT INTO glances (session) SELECT session FROM sessions;"
        )
        (kept,) = connection.execute("SELECT content FROM protocols").fetchone()
        changed = json.loads(kept) | {"weather": "fine"}
        changed["texts"]["trial"]["glance"] = "Look here"
        connection.execute("UPDATE protocols SET content = ?", [json.dumps(changed)])
    connection.close()
    return code


@pytest.mark.parametrize(
    "arguments",
    [["invite", "1"], ["status"], ["pause"], ["resume"]],
    ids=lambda arguments: arguments[0],
)
def test_a_newer_database_is_refused_in_a_line(newer, database, arguments):
    said = command(*arguments, "--database", database, code=2).stderr
    assert "made by a newer version of this program (schema 99" in said
    assert len(said.strip().splitlines()) == 1


def test_a_server_refuses_a_newer_database(newer, make):
    with pytest.raises(ColorlibError, match="newer version of this program"):
        make()


def test_newer_answers_are_exported_and_withdrawn(newer, database, tmp_path):
    said = command("export", "--output", tmp_path / "export", "--database", database).stderr
    assert "made by a newer version" in said and "weather" in said and "trial.glance" in said
    assert list(read_export(tmp_path / "export").participants["complete"]) == [1]
    assert "weather" in json.loads((tmp_path / "export" / "protocol.json").read_text())
    assert "7 answers deleted" in command("withdraw", newer, "--database", database).stdout
    with sqlite3.connect(database) as connection:
        for table in ("sessions", "glances", "answers"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    connection.close()


# The log


def fill_disk(store):
    """From now on SQLite takes no new page, as on a full disk; returns what frees the disk."""

    def limit(connection, *_):
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size instead

    def free(connection, *_):
        connection.execute("PRAGMA max_page_count = 1073741823")

    event.listen(store._engine, "checkout", limit)

    def empty():
        event.remove(store._engine, "checkout", limit)
        event.listen(store._engine, "checkout", free)

    return empty


def test_a_full_disk_is_logged_without_anybodys_data(make, database, monkeypatch, capsys):
    monkeypatch.setattr(server, "WATCH_SECONDS", 0.05)
    log.set_up()
    study = make(practice=2, scenes=4)
    people = [study.person() for _ in range(12)]
    for person in people:
        person.take_part(upto=0)
    free = fill_disk(study.store)
    replies = []
    while not replies or replies[-1].status_code == 200:  # until the last page is full
        replies.append(people[len(replies) % 12].answer(1 + len(replies) // 12))
        assert len(replies) < 84, "the disk is never full"
    assert replies[-1].json()["error"] == "unavailable"
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "disk is full" in line]
    assert re.match(r"\S+Z study: the database has taken nothing: database or disk is full$", line)
    assert people[0].get("/api/session").json()["state"] == "running", "reading goes on"
    free()
    number = len(replies) - 1
    assert people[number % 12].answer(1 + number // 12).status_code == 200
    wait_for(lambda: study.store.read(tables.noted, "last_error"))
    assert "disk is full" in lines_of(command("status", "--database", database))["last error"]


def test_a_fault_is_logged_as_a_line_without_anybodys_data(make, monkeypatch, capsys):
    log.set_up()
    study = make()
    person = study.person()
    person.take_part(upto=0)

    def broken(*_):
        raise KeyError("the answer was fake, by 203.0.113.77")

    monkeypatch.setattr("study.survey.sessions.answer", broken)
    assert person.answer(1).status_code == 500
    lines = []  # The reply is sent before the line is written.
    wait_for(lambda: lines.extend(capsys.readouterr().err.splitlines()) or lines)
    line = lines[-1]
    assert re.search(r"study: .*KeyError in test_study_promises.py:\d+$", line)
    assert "203.0.113" not in line
    assert log.last_error() == line.replace(" study:", "")


def test_a_command_on_a_full_disk_says_so_in_a_line(make, database, monkeypatch, tmp_path):
    make().close()
    opened = Store.__init__

    def full(store, *given, **options):
        opened(store, *given, **options)
        fill_disk(store)

    monkeypatch.setattr(Store, "__init__", full)
    said = command("invite", "5000", "--database", database, code=2).stderr.splitlines()
    assert said[-1] == (
        f"study: sqlite:///{database}: has taken nothing (database or disk is full); "
        "nothing changed"
    )
    assert not [line for line in said if "Traceback" in line or "INSERT" in line]
    command("export", "--output", tmp_path / "export", "--database", database)
    command("status", "--database", database)


# The proxy


def configurations():
    """The proxies' configurations in the README: Caddy's and nginx's."""
    readme = (Path(__file__).parents[1] / "study" / "README.md").read_text(encoding="utf-8")
    found = [block for block in readme.split("```") if "127.0.0.1:8000" in block and "{" in block]
    return dict(zip(("caddy", "nginx"), found, strict=True))


def test_the_readme_turns_off_both_logs_of_a_proxy():
    caddy, nginx = configurations().values()
    assert caddy.split()[:7] == ["{", "log", "default", "{", "exclude", "http.log", "http.handlers"]
    assert "output discard" in caddy
    assert {"access_log off;", "error_log /dev/null emerg;"} <= set(nginx.splitlines())


@pytest.mark.parametrize("name", ["caddy", "nginx"])
def test_a_proxy_keeps_no_ids_and_addresses_while_the_study_restarts(name, tmp_path):
    import httpx

    if not shutil.which(name):
        pytest.skip(f"no {name}: install the system's package")
    port, nobody = free_port(), free_port()
    text = configurations()[name].replace("127.0.0.1:8000", f"127.0.0.1:{nobody}")
    path = tmp_path / "configuration"
    if name == "caddy":
        text = text.replace("{", "{\n    admin off", 1)
        path.write_text(text.replace("study.example.org", f"http://127.0.0.1:{port}"))
        line = [name, "run", "--config", path, "--adapter", "caddyfile"]
    else:
        paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{part}_temp_path {tmp_path}/{part};" for part in paths)
        path.write_text(
            f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}"
            f"http {{ {temporary} access_log {tmp_path}/log;"
            f"server {{ listen 127.0.0.1:{port}; {text} }} }}"
        )
        line = [name, "-p", tmp_path, "-c", path]
    log = tmp_path / "log"
    with log.open("a") as file:
        proxy = subprocess.Popen(line, stdout=file, stderr=file)
    try:
        asked = f"http://127.0.0.1:{port}/?PROLIFIC_PID=somebody"

        def is_up():
            try:
                return httpx.get(asked).status_code == 502
            except httpx.ConnectError:
                return False

        wait_for(is_up)
    finally:
        proxy.terminate()
        proxy.wait()
    assert "somebody" not in log.read_text()


# The operator


def lines_of(said):
    return {line[:14].strip(): line[15:] for line in said.stdout.splitlines()}


def test_status_counts(make, database):
    study = make(live={"anonymized_on": "2099-03-31"}, quota=9)
    for upto in (0, 2, 7):
        person = study.person()
        person.take_part(upto=upto)
    person.post("/api/finish", {})
    told = lines_of(command("status", "--database", database))
    assert told["study"].startswith("balanced-yesno, version 1 (protocol ")
    assert told["study"].endswith("open")
    counts = {name: told[name] for name in ("consented", "started", "answering now", "finished")}
    assert counts == {"consented": "3", "started": "2", "answering now": "2", "finished": "1"}
    assert "incomplete 2" in told["excluded"]
    assert told["on each list"] == "0: 2, 1: 1"
    assert told["places left"] == "6 of 9" and told["last error"] == "none"
    assert "the texts say 8" in told["minutes"] and "anonymized_on 2099-03-31" in told["promises"]
    assert re.search(r"schema \d+, [\d.]+ MB, [\d.]+ GB free", told["database"])


def test_a_pause_lets_nobody_begin_and_everybody_go_on(make, database):
    study = make()
    guest = study.person()
    guest.take_part(upto=1)
    command("pause", "--database", database)
    assert lines_of(command("status", "--database", database))["study"].endswith("nobody begins")
    assert study.person().enter().json()["error"] == "paused"
    refused = study.person().start()
    assert (refused.status_code, refused.json()["error"]) == (403, "paused")
    assert guest.answer(2).status_code == 200
    assert guest.get("/api/session").json()["state"] == "running"
    study.close()
    again = make()  # a restart doesn't end it
    assert again.person().start().json()["error"] == "paused"
    command("resume", "--database", database)
    assert again.person().start().status_code == 200


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_quota_holds_when_many_come_at_once(stimuli, tmp_path, request, kind):
    path = fill_in(write_protocol(tmp_path / "quota.toml", quota=5))
    database = tmp_path / "study.sqlite3"
    if kind == "postgresql":
        database = request.getfixturevalue("postgresql").create(f"quota_{time_ns()}")
    with Study(path, stimuli, database, demo=False) as study:
        people = [study.person() for _ in range(20)]
        with ThreadPoolExecutor(20) as pool:
            replies = list(pool.map(lambda person: person.start(), people))
        assert sorted(reply.status_code for reply in replies) == [200] * 5 + [403] * 15
        assert {r.json()["error"] for r in replies if r.status_code == 403} == {"full"}
        assert study.person().enter().json()["error"] == "full"
        said = command("invite", "1", "--database", database, code=2).stderr
        assert "entry.quota is 5 and leaves 0 places" in said
        # Who has stopped long ago frees a place.
        moment = datetime.now(UTC) - timedelta(hours=30)
        old = tables.sessions.update().values(started_at=moment.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
        some = select(tables.sessions.c.session).limit(2)
        study.change(old.where(tables.sessions.c.session.in_(some)))
        assert len(command("invite", "2", "--database", database).stdout.split()) == 2
        assert study.person().start().status_code == 200


def test_the_page_says_its_language_and_direction(make):
    study = make(language="ar", direction="rtl")
    assert '<html lang="ar" dir="rtl">' in study.person().get("/").text


def test_a_half_translated_protocol_is_told_at_the_start(make, capsys):
    log.set_up()
    make(language="de", title="Echt oder nicht?")
    (line,) = [part for part in capsys.readouterr().err.splitlines() if "language is de" in part]
    assert "texts.problems.paused" in line and "questions.0.options.1.label" in line
    assert "consent.title" not in line
