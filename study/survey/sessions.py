"""What happens to a session: it starts, is answered, ends, is withdrawn.

These are operations of a `Store`. Each runs in one transaction, and repeating it changes nothing,
because a browser that got no reply asks again.
"""

import secrets
from functools import cache

from sqlalchemy import and_, bindparam, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from study.protocol import kept as read_kept
from study.survey import doors, entry
from study.survey.codes import code
from study.survey.payment import completion
from study.survey.plan import is_correct
from study.survey.store import (
    Refusal,
    ago,
    answers,
    invitations,
    now,
    presentations,
    protocols,
    replies,
    sessions,
    study,
    tokens,
    trials,
)

_TRIAL = (trials.c.kind, trials.c.stimulus, trials.c.second_stimulus)
# Of a trial that a query has joined: whether it was shown, whether it is answered, and how many
# trials before it are.
_ONE_OF = {
    table: (table.c.session == sessions.c.session) & (table.c.trial == trials.c.trial)
    for table in (presentations, answers)
}
_PRESENTED = exists().where(_ONE_OF[presentations]).label("presented")
_ANSWERED = exists().where(_ONE_OF[answers]).label("answered")
_ANSWERED_BEFORE = (
    select(func.count())
    .where(answers.c.session == sessions.c.session, answers.c.trial < trials.c.trial)
    .scalar_subquery()
    .label("before")
)


def _identity() -> str:
    """A random name of a person or session: a letter, and 15 hex digits.

    Without the letter, one in a thousand reads as a number (12e45678...) in a spreadsheet.
    """
    return secrets.choice("abcdef") + secrets.token_hex(8)[1:]


def salt(connection) -> str:
    """What makes the study's hashes and marks its cookies."""
    return connection.execute(select(study.c.salt)).scalar_one()


def find(connection, cookie_hash):
    """The latest session of a browser, or None."""
    query = select(sessions).where(sessions.c.cookie_hash == cookie_hash)
    return connection.execute(query.order_by(sessions.c.started_at.desc()).limit(1)).one_or_none()


def is_expired(session, protocol) -> bool:
    """Whether a session was interrupted too long ago to be resumed."""
    return session.finished_at is None and session.started_at < ago(protocol.resume.max_age_hours)


def is_changed(session, protocol) -> bool:
    """Whether an unfinished session was begun under a protocol that is no longer asked."""
    return session.finished_at is None and session.protocol_sha256 != protocol.sha256


def _asked(connection, session, protocol):
    """The protocol that the person of a session was shown; a page may outlive its server."""
    if session.protocol_sha256 in (None, protocol.sha256):
        return protocol
    query = select(protocols.c.content).where(protocols.c.sha256 == session.protocol_sha256)
    return read_kept(connection.execute(query).scalar_one())[0]


def start(connection, cookie_hash, protocol, material, entrance, before=None, another=False):
    """Starts a session, or finds the one that a browser has.

    Args:
        connection: of a transaction that writes.
        cookie_hash: str. Of the cookie that the browser gets with the reply.
        protocol: `study.protocol.Protocol`.
        material: `study.survey.plan.Material`.
        entrance: `study.survey.entry.Entrance`.
        before: str or None. The hash of the cookie that the browser has for this way in.
        another: bool. Whether a new session shall follow the one that the browser has.

    Returns:
        The session: the new one, or the one that the request, sent again, has begun already, or
        the one that goes with `before`.

    Raises:
        Refusal: see `study.survey.entry.admit`; or the invitation was begun in another browser.
    """
    # On PostgreSQL several servers may write; whoever holds the study's row assigns a place.
    key = connection.execute(select(study.c.salt).with_for_update()).scalar_one()
    begun, mine = find(connection, cookie_hash), before and find(connection, before)
    if begun or (mine and not another):
        return begun or mine
    if entry.admit(connection, key, protocol, entrance) == "elsewhere":
        raise Refusal(409, "elsewhere", "begun in another browser; go on with /api/continue")
    values = {
        "session": _identity(),
        # Who comes again counts as one person in the analysis, as far as the cookie tells.
        "participant": mine.participant if mine else _identity(),
        "cookie_hash": cookie_hash,
        "panel_hash": None,
        "invitation_hash": None,
        "entry": entrance.way,
        "consent_version": protocol.consent.version,
        "protocol_sha256": protocol.sha256,
        "list": _free_list(connection, material, protocol),
        "repeat": bool(mine),
        "panel_repeat": False,
        "started_at": now(),
        "withdrawal_code": code(),
    }
    if entrance.way == "panel":
        values["panel_hash"] = entry.panel_hash(key, entrance.name)
        values["panel_repeat"] = entry.supersede(connection, values["panel_hash"])
    elif entrance.way == "invitation":
        entry.use(connection, entrance.name)
        values["invitation_hash"] = entry.invitation_hash(key, entrance.name)
    connection.execute(insert(sessions).values(values))
    _write_plan(connection, values["session"], material.draw(values["list"]))
    return find(connection, cookie_hash)


def _free_list(connection, material, protocol):
    """The list with the fewest people who finished or still may; dropouts free their place."""
    counts = (
        select(sessions.c.list, func.count())
        .where(doors.has_place(protocol, protocol.sha256))
        .group_by(sessions.c.list)
    )
    taken = dict(map(tuple, connection.execute(counts)))
    return min(material.lists, key=lambda number: (taken.get(number, 0), number))


def _write_plan(connection, session, plan):
    rows, names = [], []
    for number, trial in enumerate(plan, 1):
        rows.append({"session": session, "trial": number} | trial._asdict())
        for place, stimulus in enumerate(filter(None, trial[1:])):
            row = {"session": session, "trial": number, "place": place, "stimulus": stimulus}
            names.append(row | {"token": secrets.token_hex(16)})
    connection.execute(insert(trials), rows)
    connection.execute(insert(tokens), names)


def overview(connection, session) -> dict:
    """What a browser may know of its session: its trials and photos, and which are answered."""
    query = select(trials.c.trial, trials.c.kind, tokens.c.token).where(
        trials.c.session == session.session,
        tokens.c.session == trials.c.session,
        tokens.c.trial == trials.c.trial,
    )
    plan = {}
    for number, kind, token in connection.execute(query.order_by(trials.c.trial, tokens.c.place)):
        # A catch trial looks like any other.
        shown = "practice" if kind == "practice" else "main"
        plan.setdefault(number, {"trial": number, "kind": shown, "photos": []})["photos"].append(
            token
        )
    done = select(answers.c.trial).where(answers.c.session == session.session)
    return {
        "trials": list(plan.values()),
        "answered": sorted(connection.execute(done).scalars()),
        "replied": bool(
            connection.execute(
                select(func.count()).where(replies.c.session == session.session)
            ).scalar_one()
        ),
    }


def stimulus(connection, token, cookie_hashes):
    """The stimulus behind a token of this browser's, by any of its cookies, or None."""
    query = (
        select(tokens.c.stimulus)
        .join(sessions, sessions.c.session == tokens.c.session)
        .where(tokens.c.token == token, sessions.c.cookie_hash.in_(cookie_hashes))
    )
    return connection.execute(query).scalar_one_or_none()


def _current(connection, cookie_hash):
    session = find(connection, cookie_hash)
    if session is None:
        raise Refusal(401, "no_session", "consent comes first")
    return session


def _query(*columns):
    """A trial of a session, and further columns, by the session's cookie; made once, for speed."""
    found = and_(trials.c.session == sessions.c.session, trials.c.trial == bindparam("number"))
    names = ("session", "started_at", "finished_at", "protocol_sha256")
    return (
        select(*(sessions.c[name] for name in names), *_TRIAL, *columns)
        .outerjoin(trials, found)
        .where(sessions.c.cookie_hash == bindparam("who"))
        .order_by(sessions.c.started_at.desc())
        .limit(1)
    )


_TO_PRESENT, _TO_ANSWER = _query(_ANSWERED, _ANSWERED_BEFORE), _query(_PRESENTED)


def _trial(connection, query, who, number):
    """The row of one of the queries above.

    Raises:
        Refusal: no session, or no such trial in it.
    """
    trial = connection.execute(query, {"who": who, "number": number}).one_or_none()
    if trial is None:
        raise Refusal(401, "no_session", "consent comes first")
    if trial.kind is None:
        raise Refusal(404, "no_trial", "this session has no such trial")
    return trial


def present(connection, cookie_hash, protocol, number, name):
    """Witnesses that a trial begins; from here on its photos can be seen.

    Args:
        connection: of a transaction that writes.
        cookie_hash: str.
        protocol: `study.protocol.Protocol`.
        number: int. The trial.
        name: str. The browser's id of this presentation: asking again with it is no second look.

    Returns:
        list of the trial's stimuli, in their order.

    Raises:
        Refusal: no session or trial, one that is answered or not yet due, or a session that ended
            or was begun under another protocol.
    """
    trial = _trial(connection, _TO_PRESENT, cookie_hash, number)
    if is_changed(trial, protocol):
        raise Refusal(409, "changed", "another protocol is asked now")
    if trial.answered or trial.finished_at or is_expired(trial, protocol):
        raise Refusal(409, "answered", "this trial is answered, or the session has ended")
    # The answer to the trial before may still be on its way, but no other.
    if trial.before < number - 2:
        raise Refusal(409, "not_due", "trials are shown one after the other")
    row = {"session": trial.session, "trial": number, "id": name}
    _insert_new(connection, presentations, row, released_at=now())
    return [stimulus for stimulus in (trial.stimulus, trial.second_stimulus) if stimulus]


def longest_side(width_css, size) -> float:
    """The longest side, CSS px, of a photo of `size` (width, height) drawn so wide."""
    width, height = size
    return width_css * max(1, height / width)


def _least(protocol, px_per_mm):
    """The least longest side, CSS px; a size that the protocol fixes in mm may be smaller."""
    least, side_mm = protocol.design.min_side_css, protocol.design.side_mm
    return (min(least, side_mm * px_per_mm) if side_mm and px_per_mm else least) - 1  # rounding


def answer(connection, cookie_hash, protocol, material, values):
    """Keeps an answer.

    Args:
        connection: of a transaction that writes.
        cookie_hash: str.
        protocol: `study.protocol.Protocol`.
        material: `study.survey.plan.Material`.
        values: dict, the columns of `answers` but `session` and `received_at`.

    Returns:
        dict: trial, and in practice with feedback `correct`.

    Raises:
        Refusal: no session, no such trial or answer, a trial whose photos were not released, a
            photo that was too small, another answer to this trial, or one after the end.
    """
    # One query and one insert, as most of the server's work is here.
    trial = _trial(connection, _TO_ANSWER, cookie_hash, values["trial"])
    choices = ("real", "fake") if trial.second_stimulus is None else ("first", "second")
    if values["answer"] not in choices:
        raise Refusal(422, "bad_answer", f"answer must be one of {', '.join(choices)}")
    if not trial.presented:
        raise Refusal(409, "not_shown", "the photos of this trial have not been released")
    side = longest_side(values["image_width_css"], material.size[trial.stimulus])
    if side < _least(protocol, values["px_per_mm"]):
        raise Refusal(422, "too_small", "the photo was smaller than design.min_side_css")
    row = {"session": trial.session} | values
    stamped = row | {"received_at": now()}
    if (trial.finished_at or not _insert_new(connection, answers, stamped)) and not _is_kept(
        connection, row
    ):
        error = "finished" if trial.finished_at else "answered"
        raise Refusal(409, error, "the session has ended, or another answer to this trial is kept")
    told = {"trial": values["trial"]}
    if trial.kind == "practice" and protocol.design.practice_feedback:
        told["correct"] = is_correct(trial, values["answer"], material.version)
    return told


@cache
def _insertion(dialect, table):
    made = {"sqlite": sqlite, "postgresql": postgresql}[dialect].insert(table)
    made = made.on_conflict_do_nothing()
    return made.execution_options(preserve_rowcount=True)  # else it is -1 after inserts


def _insert_new(connection, table, row, **stamp):
    """Inserts a row; False where its table has one of that key already."""
    return connection.execute(_insertion(connection.dialect.name, table), row | stamp).rowcount == 1


def _is_kept(connection, row):
    """Whether this very answer is kept already."""
    query = select(answers).where(answers.c.id == row["id"])
    kept = connection.execute(query).mappings().one_or_none()
    return kept is not None and all(kept[name] == value for name, value in row.items())


def reply(connection, cookie_hash, protocol, given, agreed):
    """Keeps the replies to the optional questions; the first reply to each stands.

    Args:
        connection: of a transaction that writes.
        cookie_hash: str.
        protocol: `study.protocol.Protocol`.
        given: {question's id: option's value}.
        agreed: ids of the questions with a separate consent that was given.

    Raises:
        Refusal: no session, one that has ended, an unknown question or option, a missing consent.
    """
    session = _current(connection, cookie_hash)
    asked = _asked(connection, session, protocol)
    known = {question.id: question for question in asked.questions}
    for name, value in given.items():
        if name not in known or value not in {option.value for option in known[name].options}:
            raise Refusal(422, "bad_reply", "no such question or option")
        if known[name].consent and name not in agreed:
            raise Refusal(422, "no_consent", f"{name} needs a consent of its own")
    query = select(replies.c.question).where(replies.c.session == session.session)
    kept = set(connection.execute(query).scalars())
    fresh = [
        {"session": session.session, "question": name, "value": value}
        for name, value in given.items()
        if name not in kept
    ]
    if fresh and session.finished_at:
        raise Refusal(409, "finished", "the session has ended")
    if fresh:
        connection.execute(insert(replies), fresh)
    return {}


def finish(connection, cookie_hash, protocol):
    """Ends a session in which every trial is answered; returns the codes that a person gets.

    Raises:
        Refusal: no session, or trials without an answer.
    """
    session = _current(connection, cookie_hash)
    counts = [
        connection.execute(
            select(func.count()).select_from(table).where(table.c.session == session.session)
        ).scalar_one()
        for table in (trials, answers)
    ]
    if counts[0] != counts[1]:
        raise Refusal(409, "incomplete", f"{counts[1]} of {counts[0]} answers have arrived")
    if not session.finished_at:
        # Nobody goes on elsewhere any more: what joins an invitation to a session goes.
        ended = {"finished_at": now(), "invitation_hash": None}
        mine = sessions.c.session == session.session
        connection.execute(update(sessions).where(mine).values(ended))
    asked = _asked(connection, session, protocol)
    given = completion(asked, salt(connection), session.panel_hash)
    return {"withdrawal_code": session.withdrawal_code, "answers": counts[1]} | given


def invite(connection, count) -> list[str]:
    """Makes invitations that work once; only their hashes are kept."""
    made = [code() for _ in range(count)]
    moment = now()
    connection.execute(
        insert(invitations), [{"code_hash": entry.sha256(c), "created_at": moment} for c in made]
    )
    return made
