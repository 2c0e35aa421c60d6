"""Who is who in the survey: nobody gets at another's answers, by a link, a browser or a code."""

import shutil
from contextlib import ExitStack
from datetime import UTC, datetime

import pandas as pd
import pytest

pytest.importorskip("sqlalchemy", reason="pip install -e '.[study]'")
from survey_parts import Study, command, content, fill_in, make_stimuli, write_protocol

from study.survey import retention
from study.survey import store as tables
from study.survey.entry import invitation_hash, sha256
from study.survey.guards import Buckets, network


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory):
    return make_stimuli(tmp_path_factory.mktemp("visitors") / "stimuli")


@pytest.fixture
def database(tmp_path):
    return tmp_path / "study.sqlite3"


@pytest.fixture
def serve(stimuli, database, tmp_path):
    """Serves a study for real people until the test ends, or until it is closed."""
    with ExitStack() as running:

        def serve(database=database, **values):
            path = fill_in(write_protocol(tmp_path / "protocol.toml", **values))
            return running.enter_context(Study(path, stimuli, database, demo=False))

        yield serve


def finish(person, **entry):
    """Takes part to the end; returns the codes."""
    person.take_part(**entry)
    done = person.post("/api/finish", {})
    assert done.status_code == 200, done.text
    return done.json()


def resume(person, answer="fake"):
    """Answers what is left, and finishes."""
    state = person.get("/api/session").json()
    for trial in state["trials"]:
        if trial["trial"] not in state["answered"]:
            assert person.answer(trial["trial"], answer).status_code == 200
    done = person.post("/api/finish", {})
    assert done.status_code == 200, done.text
    return done.json()


def invitations(database, count):
    return command("invite", count, "--database", database).stdout.split()


def answers(study):
    return len(study.rows(tables.answers))


# An id in a link proves nothing


def test_withdrawing_deletes_ones_own_session_only(serve, database):
    study = serve()
    victim = finish(study.person(), panel="P1")
    stranger = finish(study.person(), panel="P1")
    assert victim["answers"] == stranger["answers"] == 7 and answers(study) == 14
    command("withdraw", stranger["withdrawal_code"], "--database", database)
    assert answers(study) == 7
    command("withdraw", victim["withdrawal_code"], "--database", database)
    assert answers(study) == 0
    again = study.person()
    first = finish(again)
    finish(again, key="a" * 32, another=True)
    command("withdraw", first["withdrawal_code"], "--database", database)
    assert answers(study) == 7, "nor are two sessions of one browser one"


def test_who_uses_a_strangers_id_first_excludes_nobody(serve, database, tmp_path):
    study = serve()
    finish(study.person(), panel="P1")
    finish(study.person(), panel="P1")
    command("export", "--output", tmp_path / "out", "--database", database)
    people = pd.read_csv(tmp_path / "out/data/study-koala_table-participants_data.csv")
    people = people.sort_values("started_at")
    assert not people["excluded_repeat"].any() and not people["excluded_incomplete"].any()
    assert list(people["panel_repeat"]) == [False, True], "it can still be looked at"
    assert people["participant"].nunique() == 2


def test_an_id_does_not_tell_whether_somebody_took_part(serve):
    study = serve()
    finish(study.person(), panel="P1")
    told = [study.person().enter(panel=name).json() for name in ("P1", "P2")]
    assert [set(reply) for reply in told] == [set(told[0])] * 2
    assert {reply["state"] for reply in told} == {"new"}


def test_a_panels_person_on_a_second_device_is_excluded_once(serve, database, tmp_path):
    study = serve()
    first, second = study.person(), study.person()
    first.take_part(upto=3, panel="P1")
    finish(second, panel="P1")
    command("export", "--output", tmp_path / "out", "--database", database)
    people = pd.read_csv(tmp_path / "out/data/study-koala_table-participants_data.csv")
    people = people.sort_values("started_at")
    assert list(people["superseded_at"].notna()) == [True, False]
    excluded = people[["excluded_incomplete", "excluded_repeat"]].any(axis=1)
    assert list(excluded) == [True, False]
    # The id did not prove that the second one was the same person: the first may go on.
    assert resume(first)["answers"] == 7


def test_a_superseded_session_frees_its_place_on_the_list(serve):
    study = serve()
    for _ in range(3):
        study.person().take_part(upto=1, panel="P1")
    study.person().take_part(upto=0, panel="P2")
    lists = [row.list for row in study.rows(tables.sessions)]
    assert sorted(lists[2:]) == [0, 1], "the two that go on are on two lists"


def test_an_invitation_goes_on_in_another_browser(serve, database):
    study = serve(ways=["invitation"])
    (code,) = invitations(database, 1)
    phone, laptop = study.person(), study.person()
    phone.take_part(upto=3, invitation=code)
    assert laptop.enter(invitation=code).json()["state"] == "elsewhere", "it asks first"
    assert laptop.start(invitation=code).json()["error"] == "elsewhere"
    state = laptop.go_on(code).json()
    assert state["answered"] == [1, 2, 3] and state["withdrawal_code"]
    assert laptop.go_on(code).json() == state, "the reply may have got lost"
    assert phone.answer(4).status_code == 401 and phone.get("/api/session").json()["state"] == "new"
    assert resume(laptop)["answers"] == 7 and len(study.rows(tables.sessions)) == 1
    for late in (study.person().enter(invitation=code), study.person().go_on(code)):
        assert late.json()["error"] == "bad_invitation"


def begun(study, database):
    """Somebody who has begun by an invitation, its code, and the row of their session."""
    (code,) = invitations(database, 1)
    person = study.person()
    person.take_part(upto=1, invitation=code)
    (session,) = study.rows(tables.sessions)
    return person, code, session


def test_nothing_joins_an_invitation_to_answers_after_the_end(serve, database):
    study = serve()
    person, _, before = begun(study, database)
    resume(person)
    (after,) = study.rows(tables.sessions)
    assert before.invitation_hash and after.invitation_hash is None
    (invitation,) = study.rows(tables.invitations)
    assert invitation.used_at == after.started_at[:10], "the day, and no time"


def test_no_used_invitation_is_kept(serve, database, monkeypatch):
    study = serve()
    codes = invitations(database, 5)
    used, kept = codes[2::-1], codes[3:]
    for code in used:
        study.person().take_part(upto=1, invitation=code)
    rows = study.rows(tables.invitations)
    day = tables.now()[:10]
    assert sorted(row.code_hash for row in rows if not row.used_at) == sorted(map(sha256, kept))
    assert {(row.created_at, row.used_at) for row in rows if row.used_at} == {(day, day)}
    assert not {row.code_hash for row in rows} & set(map(sha256, used))
    assert "5 made, 3 used" in command("status", "--database", database).stdout
    monkeypatch.setattr(tables, "clock", lambda: datetime(2099, 1, 1, tzinfo=UTC))
    retention.carry_out(study.store)
    study.close()
    salt = study.survey.salt
    left = content(database)
    for code in used:
        for trace in (code, sha256(code), invitation_hash(salt, code)):
            assert trace.encode() not in left


def test_who_withdraws_does_not_begin_again_by_the_same_invitation(serve, database):
    study = serve()
    person, code, row = begun(study, database)
    assert person.post("/api/withdraw", {"code": row.withdrawal_code}).status_code == 200
    for reply in (person.enter(invitation=code), study.person().start(invitation=code)):
        assert reply.json()["error"] == "bad_invitation"


# Shared computers


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("way", ["invitation", "panel"])
def test_two_people_at_one_computer_have_two_sessions(serve, database, way, ended):
    study = serve()
    names = invitations(database, 2) if way == "invitation" else ["P1", "P2"]
    browser = study.person()
    first = browser.take_part(upto=None if ended else 2, **{way: names[0]})
    code = study.rows(tables.sessions)[0].withdrawal_code
    if ended:
        browser.post("/api/finish", {})
    entered = browser.enter(**{way: names[1]})
    assert entered.json()["state"] == "new" and code not in entered.text, "consent comes first"
    second = browser.take_part(upto=1, key="b" * 32, **{way: names[1]})
    photos = [{token for trial in plan for token in trial["photos"]} for plan in (first, second)]
    assert not photos[0] & photos[1]
    assert browser.get("/api/session").json()["answered"] == [1]
    one, other = study.rows(tables.sessions)
    assert one.participant != other.participant and not other.repeat
    back = browser.enter(**{way: names[0]}).json()
    if ended:
        assert back["state"] == "finished"
    else:
        assert back["answered"] == [1, 2], "and the first one's still goes on"


def test_who_comes_back_to_a_finished_session_gets_no_withdrawal_code(serve):
    study = serve(completion_code="{code}")
    for entry in ({}, {"panel": "P1"}):
        browser = study.person()
        told = finish(browser, **entry)
        for reply in (browser.get("/api/session"), browser.enter(**entry)):
            assert reply.json()["state"] == "finished"
            assert told["withdrawal_code"] not in reply.text
        # The panel's link names whose completion code it is.
        assert reply.json().get("completion_code") == told.get("completion_code")


def test_the_bare_address_finds_what_was_begun_in_this_browser(serve, database):
    study = serve()
    (code,) = invitations(database, 1)
    browser = study.person()
    finish(browser)
    browser.take_part(upto=2, key="b" * 32, invitation=code)
    state = browser.enter().json()
    assert state["state"] == "running" and state["answered"] == [1, 2]
    # The page asks who is there. Somebody else begins by the open link.
    begun = browser.start(key="c" * 32, another=True).json()
    assert begun["state"] == "running" and begun["answered"] == []


def test_two_studies_on_one_host_keep_apart(serve, tmp_path):
    one, other = serve(), serve(tmp_path / "other.sqlite3")
    person = one.person()
    person.take_part(upto=2)
    first = person.http.headers["X-Entry"]
    person.http.base_url = other.address  # cookies know no ports
    person.take_part(upto=1)
    assert person.get("/api/session").json()["answered"] == [1]
    person.http.base_url = one.address
    person.http.headers["X-Entry"] = first
    assert person.get("/api/session").json()["answered"] == [1, 2]


def test_who_tries_codes_does_not_hold_up_those_who_answer(serve, monkeypatch):
    study = serve()
    submitted = []
    submit = study.store.submit

    def count(operation, *arguments):
        submitted.append(operation.__name__)
        return submit(operation, *arguments)

    monkeypatch.setattr(study.store, "submit", count)
    person = study.person()
    person.post("/api/withdraw", {"code": "ABCD-EFGH-JKMN"})
    person.go_on("ABCD-EFGH-JKMN")
    person.enter(invitation="ABCD-EFGH-JKMN")
    assert not submitted, "a refused operation has its whole batch done again"
    person.take_part(upto=1)
    assert "answer" in submitted


# Nothing before consent


def test_nothing_is_stored_before_consent(serve, database):
    study = serve(completion_code="{code}")
    (code,) = invitations(database, 1)
    person = study.person()
    before = [study.rows(table) for table in tables.metadata.sorted_tables]
    replies = [
        person.get(path) for path in ("/", "/api/study", "/api/session", "/static/survey.js")
    ]
    replies += [person.enter(**way) for way in ({}, {"panel": "P1"}, {"invitation": code})]
    assert all(reply.status_code == 200 for reply in replies)
    assert not any("set-cookie" in reply.headers for reply in replies)
    assert [study.rows(table) for table in tables.metadata.sorted_tables] == before


def test_a_start_whose_reply_got_lost_begins_nothing_twice(serve):
    study = serve()
    person = study.person()
    first = person.start().json()
    person.http.cookies.clear()
    assert person.start().json() == first, "the same key, and the cookie comes again"
    assert person.answer(1).status_code == 200
    assert len(study.rows(tables.sessions)) == 1


# Withdrawal


@pytest.mark.parametrize("upto", [0, 3])
def test_the_page_withdraws_at_any_time(serve, upto):
    study = serve()
    person, other = study.person(), study.person()
    other.take_part(upto=1)
    person.take_part(upto=upto)
    code = person.get("/api/session").json()["withdrawal_code"]
    for wrong in ("", "ABCD-EFGH-JKMN", code[:-1]):
        assert person.post("/api/withdraw", {"code": wrong}).json()["error"] == "unknown_code"
    gone = person.post("/api/withdraw", {"code": f" {code.lower().replace('-', ' ')} "})
    assert gone.status_code == 200 and not person.http.cookies
    assert person.post("/api/withdraw", {"code": code}).status_code == 200, "asking again"
    assert person.get("/api/session").json() == {"state": "new"}
    assert answers(study) == 1 and len(study.rows(tables.sessions)) == 1
    assert len(study.rows(tables.withdrawals)) == 1


def test_the_command_takes_a_code_as_it_was_noted(serve, database):
    study = serve()
    code = finish(study.person())["withdrawal_code"]
    noted = code.lower().replace("-", "")
    assert "7 answers deleted" in command("withdraw", noted, "--database", database).stdout


def test_the_page_withdraws_nobody_after_anonymization(serve, monkeypatch):
    study = serve()
    code = finish(study.person())["withdrawal_code"]
    monkeypatch.setattr(tables, "clock", lambda: datetime(2099, 1, 1, tzinfo=UTC))
    retention.carry_out(study.store)  # as the server does at midnight
    late = study.person().post("/api/withdraw", {"code": code})
    assert late.status_code == 409 and late.json()["error"] == "anonymous"
    assert answers(study) == 7


@pytest.mark.slow
@pytest.mark.parametrize("by", ["page", "command"])
def test_a_restored_backup_brings_back_nobody_who_withdrew(serve, database, tmp_path, by):
    study = serve()
    code = finish(study.person())["withdrawal_code"]
    finish(study.person())
    study.close()
    backup = shutil.copy(database, tmp_path / "backup.sqlite3")
    study = serve()
    if by == "page":
        assert study.person().post("/api/withdraw", {"code": code}).status_code == 200
    else:
        command("withdraw", code, "--database", database)
    study.close()
    assert code not in database.with_name("study.sqlite3.withdrawn").read_text()
    shutil.copy(backup, database)
    study = serve()
    assert answers(study) == 7 and len(study.rows(tables.withdrawals)) == 1
    study.close()
    shutil.copy(backup, database)
    done = command("export", "--output", tmp_path / "out", "--database", database)
    assert "1 participants" in done.stdout and "1 withdrawals" in done.stdout


def test_withdrawals_of_an_earlier_study_are_not_those_of_the_next(serve, database):
    """A pilot's file stays beside the database that is deleted."""
    study = serve()
    pilots = finish(study.person())["withdrawal_code"]
    command("withdraw", pilots, "--database", database)
    study.close()
    database.unlink()
    study = serve()
    assert not study.rows(tables.withdrawals)
    code = finish(study.person())["withdrawal_code"]
    command("withdraw", code, "--database", database)
    assert len(study.rows(tables.withdrawals)) == 1
    lines = database.with_name("study.sqlite3.withdrawn").read_text().splitlines()
    assert len({line.split()[2] for line in lines}) == len(lines) == 2


def test_a_lost_file_of_withdrawals_is_written_again(serve, database):
    study = serve()
    code = finish(study.person())["withdrawal_code"]
    command("withdraw", code, "--database", database)
    file = database.with_name("study.sqlite3.withdrawn")
    kept = file.read_text()
    file.unlink()
    invitations(database, 1)
    assert file.read_text() == kept
    file.write_bytes(b"\xff")
    done = command("invite", 1, "--database", database, code=2)
    assert "study.sqlite3.withdrawn: withdrawals can't be kept there (not UTF-8" in done.stderr


# Payment


def test_completion_codes_say_who_finished(serve, database, tmp_path):
    study = serve(completion_code="{code}", completion_url="https://example.org/?cc={code}")
    told = finish(study.person(), panel="P1")
    code = told["completion_code"]
    assert told["completion_url"] == f"https://example.org/?cc={code}"
    stopping = study.person()
    stopping.take_part(upto=2, panel="P2")
    state = stopping.get("/api/session").json()
    stopping.post("/api/withdraw", {"code": state["withdrawal_code"]})
    declined = study.person().enter(panel="P3").json()["declined"]["completion_code"]
    study.person().take_part(upto=3, panel="P5")
    lines = [
        f"P1,{code.lower()}",
        f'"P2";"{state["stopped"]["completion_code"]}"',
        f"P3 {declined.replace('-', '')}",
        f"P4\t{code}",  # another's
        "P5",
        "",
    ]
    file = tmp_path / "ids.txt"
    file.write_text("\r\n".join(lines), encoding="utf-8-sig")
    paid = ["paid", file, "--database", database]
    said = [line.split("\t") for line in command(*paid).stdout.splitlines()]
    outcomes = ["finished", "stopped", "declined", "wrong code", "no code"]
    assert said == [[f"P{number}", outcome] for number, outcome in enumerate(outcomes, 1)]
    command("withdraw", told["withdrawal_code"], "--database", database)
    assert "P1\tfinished" in command(*paid).stdout, "who withdraws afterwards is paid, too"
    study.close()
    assert code.encode() not in content(database), "no record of it is kept"


def test_a_code_that_is_the_same_for_all_is_for_those_who_finish(serve, database, tmp_path):
    study = serve(completion_code="C0FFEE")
    person = study.person()
    assert person.enter(panel="P1").json()["declined"] == {}
    person.take_part(upto=1, panel="P1")
    assert person.get("/api/session").json()["stopped"] == {}
    assert resume(person)["completion_code"] == "C0FFEE"
    file = tmp_path / "ids.txt"
    file.write_text("P1 C0FFEE")
    # Nobody is called a liar for having the code that all have.
    done = command("paid", file, "--database", database, code=2)
    assert "have no {code}" in done.stderr and "P1" not in done.stdout


def test_a_list_of_ids_that_is_none_gets_one_line(serve, database, tmp_path):
    serve()
    done = command("paid", tmp_path / "no.txt", "--database", database, code=2)
    assert "no.txt: can't be read (No such file" in done.stderr


# Addresses and frames


def test_a_network_of_ipv6_counts_as_one_address(serve):
    assert network("2001:db8:1:2:aaaa::1") == network("2001:db8:1:2:bbbb::2")
    assert network("2001:db8:1:2::1") != network("2001:db8:1:3::1")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") == "192.0.2.1"
    assert network("192.0.2.1") != network("192.0.2.2") and network("unix") == "unix"
    study = serve()
    study.app.starts = Buckets(0, 2)
    codes = []
    for host in range(4):
        person = study.person(**{"X-Forwarded-For": f"2001:db8:1:2:{host}::1"})
        codes.append(person.start().status_code)
    assert codes == [200, 200, 429, 429]


def test_only_the_protocols_sites_may_frame_the_page(serve, tmp_path):
    closed = serve().person()
    headers = closed.get("/").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    framed = serve(tmp_path / "b.sqlite3", frame_ancestors=["https://panel.example"]).person()
    headers = framed.get("/").headers
    assert headers["content-security-policy"].endswith("frame-ancestors https://panel.example")
    assert "x-frame-options" not in headers
    cookie = framed.start().headers["set-cookie"]
    for part in ("SameSite=none", "Secure", "Partitioned", "HttpOnly"):
        assert part in cookie
