"""Who is served: a browser that has shown the page's token, then its cookie; never the page of another site.

The cookie alone would not do: browsers send it with requests of every page on this host, whatever its port.
"""

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the address may still hold the token
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
OWN_SITE = ("same-origin", "none")  # of `Sec-Fetch-Site`; none: typed, or opened from another program
TOKEN_NEEDED = "This page needs its token: open the address that `distexp web` has printed, up to its end."


@dataclass(frozen=True)
class Access:
    """What a browser has to show."""

    token: str  # in the address
    session: str  # in the cookie
    cookie: str  # its name: cookies are shared by all ports of a host
    names: frozenset[str]  # of this host, as the address may hold them; numbers may always

    @classmethod
    def make(cls, port: int, names: Iterable[str] = ()) -> "Access":
        """Return new secrets for a page at this port, which is also reached as `names`."""
        own = {"localhost", socket.gethostname(), *names}
        return cls(
            token=secrets.token_urlsafe(24),
            session=secrets.token_urlsafe(24),
            cookie=f"distexp_{port}",
            names=frozenset(name.lower() for name in own),
        )

    def refusal(self, request: HTTPConnection, method: str) -> str:
        """Return why a request is not served; empty: it is."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self._is_own(host):
            return f"This page is not served as {host!r}: another site may be behind that name."
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "Another site has sent this request."
        if method not in ("GET", "HEAD") and origin is None:
            return "Only the page itself can change something."
        is_visit = request.url.path == "/" and request.headers.get("sec-fetch-mode") == "navigate"
        if request.headers.get("sec-fetch-site", "none") not in OWN_SITE and not is_visit:
            return "Another site has sent this request."
        return "" if self.has_cookie(request) or self.has_token(request) else TOKEN_NEEDED

    def has_cookie(self, request: HTTPConnection) -> bool:
        """Return whether the request shows the cookie."""
        return _is_equal(request.cookies.get(self.cookie, ""), self.session)

    def has_token(self, request: HTTPConnection) -> bool:
        """Return whether the request is for the page's address with its token."""
        return request.url.path == "/" and _is_equal(request.query_params.get("token", ""), self.token)

    def _is_own(self, host: str) -> bool:
        """Return whether an address names this host: a name that others control could lead here, too."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False


class Guard:
    """Refuses requests, and adds what browsers have to heed to the answers of others."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Stand before `app`."""
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        request = Request(scope)
        why = self._access.refusal(request, request.method)
        app: ASGIApp | Response = PlainTextResponse(why, 403) if why else self._app

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not why and self._access.has_token(request):
                    headers.append("set-cookie", self._cookie())
            await send(message)

        return await app(scope, receive, send_guarded)

    def _cookie(self) -> str:
        return f"{self._access.cookie}={self._access.session}; Path=/; HttpOnly; SameSite=Strict"


def _is_equal(shown: str, secret: str) -> bool:
    return hmac.compare_digest(shown.encode(errors="replace"), secret.encode())
