"""What stands between the network and the survey: headers, limits on bodies and rates."""

import asyncio
import ipaddress
import time
from collections import OrderedDict

from starlette.requests import Request
from starlette.responses import JSONResponse

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "font-src 'self' data:; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
)
HEADERS = {
    "Content-Security-Policy": POLICY + "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # a link's invitation or panel id goes nowhere
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
MAX_BODY = 16_384  # bytes; an answer has about 400
BODY_SECONDS = 10  # a body that trickles in slower is given up
# Requests a second that go on and on, and how many may come at once. A page asks for three or four
# in a second at most. A whole lecture hall may share one address, and a page takes fifteen requests
# before somebody consents.
SESSION_RATE, SESSION_BURST = 20, 150
ADDRESS_RATE, ADDRESS_BURST = 200, 6000
# Sessions that one address begins: beyond a lecture hall, somebody is filling the database.
START_RATE, START_BURST = 1, 1000
_BUCKETS = 20_000


def refused(status, error, detail="", headers=None):
    return JSONResponse({"error": error, "detail": detail}, status, headers)


class Buckets:
    """How many requests each visitor has left; those not seen for longest are forgotten first."""

    def __init__(self, rate, burst):
        self.rate, self.burst = rate, burst
        self._levels = OrderedDict()

    def take(self, who) -> bool:
        """Whether one more request is allowed."""
        moment = time.monotonic()
        level, last = self._levels.pop(who, (self.burst, moment))
        level = min(self.burst, level + (moment - last) * self.rate)
        self._levels[who] = (max(level - 1, 0), moment)
        if len(self._levels) > _BUCKETS:
            self._levels.popitem(last=False)
        return level >= 1


def network(address) -> str:
    """What counts as one address: of IPv6 a /64, since each subscriber has one to choose from."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 6 and ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else str(ip)


def headers_for(frame_ancestors) -> dict:
    """The headers of every reply; sites that may show the page in a frame are named in them."""
    if not frame_ancestors:
        return HEADERS
    sites = " ".join(frame_ancestors)  # MTurk wants a form back from the page in its frame
    policy = f"{POLICY}form-action 'self' {sites}; frame-ancestors {sites}"
    headers = HEADERS | {"Content-Security-Policy": policy}
    del headers["X-Frame-Options"]  # it knows only none and all
    return headers


class Guard:
    """An ASGI middleware around the survey.

    Rates are counted by session, because many people may share an address. They are counted by
    address only for visitors without a valid cookie, and for beginning a session. Addresses are
    kept in memory for the count and nowhere else.

    Args:
        app: the ASGI application.
        visitor: function (Request) -> who has sent it, by a valid cookie, or None.
        frame_ancestors: sites that may show the page in a frame.
    """

    def __init__(self, app, visitor, frame_ancestors=()):
        self.app, self.visitor = app, visitor
        headers = headers_for(frame_ancestors)
        self._headers = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
        self.sessions = Buckets(SESSION_RATE, SESSION_BURST)
        self.addresses = Buckets(ADDRESS_RATE, ADDRESS_BURST)
        self.starts = Buckets(START_RATE, START_BURST)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        who = self.visitor(request)
        address = network(request.client.host) if request.client else ""
        allowed = self.sessions.take(who) if who else self.addresses.take(address)
        if allowed and scope["path"] == "/api/start":
            allowed = self.starts.take(address)
        if not allowed:
            answer = refused(429, "too_many", "slow down", {"Retry-After": "1"})
            return await answer(scope, receive, send_with_headers)
        site = request.headers.get("sec-fetch-site", "same-origin")
        if request.method != "GET" and site not in ("same-origin", "none"):
            answer = refused(403, "foreign", "another site's page may not speak for a visitor")
            return await answer(scope, receive, send_with_headers)
        await self.app(scope, receive, send_with_headers)


async def body(request) -> bytes:
    """A request's body, within the limits.

    Raises:
        ValueError: not JSON by its header, too long, too slow; its arguments are status and error.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise ValueError(415, "not_json")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > MAX_BODY:
        raise ValueError(413, "too_long")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            parts, size = [], 0
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise ValueError(413, "too_long")
                parts.append(part)
    except TimeoutError:
        raise ValueError(408, "too_slow") from None
    return b"".join(parts)
