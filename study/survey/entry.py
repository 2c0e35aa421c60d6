"""Who is who: the ways in, the cookie of each, and what a link or a cookie proves.

A cookie with the server's mark proves that a browser began a session. An invitation proves that
its bearer was invited. A panel's id in a link proves nothing, because anybody can write it there:
it never opens, ends, merges or excludes a session.
"""

import hashlib
import hmac
import secrets
from typing import NamedTuple

from sqlalchemy import and_, delete, insert, select, update

from study.survey import doors
from study.survey.store import Refusal, ago, invitations, now, sessions

_DAY = 24 * 3600
REPEAT_SECONDS = 180 * _DAY  # as long as who comes again by the open link is known for it


class Entrance(NamedTuple):
    """A way in (open, invitation, panel), and the invitation or the panel's id."""

    way: str
    name: str = ""


def sha256(text) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def seal(salt, text) -> str:
    """A hash that nobody can make or guess without the study's salt: HMAC-SHA-256, as hex."""
    return hmac.new(salt.encode(), text.encode(), "sha256").hexdigest()


class Cookies:
    """A study's cookies: one for each way in that a browser has used, set at consent.

    A cookie carries the server's mark, so that nobody gets a fresh allowance by making cookies up,
    and the database knows it as a hash only. Its name holds the study and the way in: two studies
    on one host, or two people's invitations in one browser, don't overwrite each other.

    Args:
        salt: str. The study's.
        protocol: `study.protocol.Protocol`.
    """

    def __init__(self, salt, protocol):
        self._salt, self._protocol = salt, protocol
        self._prefix = f"koala-{seal(salt, 'study')[:8]}-"
        self.open = self.tag(Entrance("open"))

    def tag(self, entrance) -> str:
        """What cookies and the page call a way in; it tells neither invitation nor id."""
        return seal(self._salt, f"entry {entrance.way} {entrance.name}")[:12]

    def of(self, request) -> dict:
        """The hashes of a request's cookies, {tag: hash}; without those that bear no mark."""
        found = {}
        for name, value in request.cookies.items():
            if name.startswith(self._prefix):
                tag = name.removeprefix(self._prefix)
                text, _, mark = value.partition(".")
                if hmac.compare_digest(mark.encode(), self._mark(tag, text).encode()):
                    found[tag] = sha256(text)
        return found

    def visitor(self, request):
        """The hash of the cookie for the way in that a request names (`X-Entry`), or None."""
        return self.of(request).get(self.named(request))

    def named(self, request) -> str:
        """The tag of the way in that a request is about."""
        return request.headers.get("x-entry", self.open)

    def hash_for(self, tag, key) -> str:
        """The hash of the cookie that `give` gives."""
        return sha256(self._text(tag, key))

    def give(self, answer, tag, key, secure):
        """Sets the cookie that belongs to a key; the same key gets the same cookie again."""
        text, hours = self._text(tag, key), self._protocol.resume.max_age_hours
        # A day longer than needed, to tell somebody who is late that it is too late.
        seconds = REPEAT_SECONDS if tag == self.open else int(3600 * hours) + _DAY
        self._set(answer, tag, f"{text}.{self._mark(tag, text)}", seconds, secure)

    def take(self, answer, tag, secure):
        """Deletes the cookie for a way in."""
        self._set(answer, tag, "", 0, secure)

    def _set(self, answer, tag, value, seconds, secure):
        framed = bool(self._protocol.panel.frame_ancestors)
        answer.set_cookie(
            self._prefix + tag,
            value,
            max_age=seconds,
            httponly=True,
            secure=secure or framed,
            # Strict would hide it from who comes by a panel's link, and lax inside a panel's frame.
            samesite="none" if framed else "lax",
        )
        if framed:  # kept apart for each site that frames the page, as browsers now want it
            answer.headers["set-cookie"] += "; Partitioned"

    def _text(self, tag, key):
        return seal(self._salt, f"cookie {tag} {key}")[:32]

    def _mark(self, tag, text):
        return seal(self._salt, f"mark {tag} {text}")[:32]


def invitation_hash(salt, text) -> str:
    return seal(salt, f"invitation {text}")


def panel_hash(salt, text) -> str:
    return seal(salt, text)


def latest(connection, protocol, cookies):
    """The tag of the newest session that one of the cookies can go on with, or None."""
    hashes = {cookie_hash: tag for tag, cookie_hash in cookies.items()}
    newest = (
        select(sessions.c.cookie_hash)
        .where(
            sessions.c.cookie_hash.in_(list(hashes)),
            sessions.c.finished_at.is_(None),
            sessions.c.started_at >= ago(protocol.resume.max_age_hours),
        )
        .order_by(sessions.c.started_at.desc())
        .limit(1)
    )
    return hashes.get(connection.execute(newest).scalar_one_or_none())


def admit(connection, salt, protocol, entrance):
    """Whether somebody may begin; told before consent, and checked again at it.

    Returns:
        str: `new`, or `elsewhere` for an invitation by which somebody has begun and not finished.

    Raises:
        Refusal: an invitation that is not good, a way in that the protocol doesn't have, a study
            that is over, paused or full.
    """
    if entrance.way not in protocol.entry.ways:
        raise Refusal(403, "bad_invitation", f"this study is not entered by {entrance.way}")
    if entrance.way == "invitation":
        begun = select(sessions.c.session).where(_begun(salt, protocol, entrance.name))
        if connection.execute(begun).one_or_none():
            return "elsewhere"
        unused = select(invitations.c.code_hash).where(_unused(entrance.name))
        if connection.execute(unused).one_or_none() is None:
            raise Refusal(403, "bad_invitation", "unknown, or used already")
    shut = doors.closed(connection, protocol, protocol.sha256)
    if shut:
        raise Refusal(403, shut, "nobody may begin now")
    return "new"


def _begun(salt, protocol, invitation):
    """The condition of a session that an invitation began and may go on with."""
    return and_(
        sessions.c.invitation_hash == invitation_hash(salt, invitation),
        sessions.c.finished_at.is_(None),
        sessions.c.started_at >= ago(protocol.resume.max_age_hours),
    )


def _unused(invitation):
    """The condition of an invitation that nobody has used; of a used one, no hash is kept."""
    return and_(invitations.c.code_hash == sha256(invitation), invitations.c.used_at.is_(None))


def use(connection, invitation):
    """Uses an invitation up: another row, with a random name, says that one was used that day.

    Its hash, its place among the others, and the time would tell whom a session belongs to.
    """
    if not connection.execute(delete(invitations).where(_unused(invitation))).rowcount:
        raise Refusal(403, "bad_invitation", "unknown, or used already")
    used = {"code_hash": secrets.token_hex(32), "created_at": now()[:10], "used_at": now()[:10]}
    connection.execute(insert(invitations).values(used))


def go_on(connection, cookie_hash, salt, protocol, invitation):
    """Hands an invitation's session over to the browser with this cookie, from the one before.

    Raises:
        Refusal: by this invitation, nothing was begun that could go on.
    """
    moved = update(sessions).where(_begun(salt, protocol, invitation))
    if not connection.execute(moved.values(cookie_hash=cookie_hash)).rowcount:
        raise Refusal(403, "bad_invitation", "nothing was begun by it that could go on")


def supersede(connection, panel_hash) -> bool:
    """Marks the unfinished sessions of a panel's id as superseded by one that begins now.

    The mark ends nothing: whoever holds the cookie of such a session may finish it, because the id
    alone does not prove that it is the same person who begins anew.

    Returns:
        bool: whether there was any session of this id, finished or not.
    """
    same = sessions.c.panel_hash == panel_hash
    before = connection.execute(select(sessions.c.session).where(same).limit(1)).one_or_none()
    open_ = and_(same, sessions.c.finished_at.is_(None), sessions.c.superseded_at.is_(None))
    connection.execute(update(sessions).where(open_).values(superseded_at=now()))
    return before is not None
