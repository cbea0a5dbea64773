"""Who may ask what: the outermost layer, through which each request and each answer goes.

Host: a foreign page that had its own name point to this machine (DNS rebinding) still sends that name. Origin: a page
of another site says so in each request that changes or sends something.
"""

import asyncio
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenfold.errors import UsageError
from tenfold.serving.serve.batching import Batcher
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.refusal import RefusalError, busy
from tenfold.serving.serve.watch import Telemetry, log_error

OPEN = frozenset(
    {"/", "/page.js", "/page.css", "/icon.svg", "/docs", "/docs.js", "/healthz", "/v2/health/live", "/v2/health/ready"}
)
"""Paths that need no token: the pages, which are the same for everybody, and whether the service is well."""
_READY = re.compile(r"/healthz|/v2/health/ready|/v2/models/[^/]+/ready|/v2/models/[^/]+/versions/[^/]+/ready")
"""Paths by which load balancers learn whether to send more requests."""
_ALIVE = "/v2/health/live"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
]
_SOUND_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SOUND_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_GONE = 499  # as nginx logs it: the client did not wait


class Hosts:
    """The names under which the service may be asked. Raises `UsageError` for what is no name."""

    def __init__(self, address: str, more: Iterable[str] = ()):
        self._local = ipaddress.ip_address(address).is_loopback
        self._names = {_sound_name(name) for name in more} | {"localhost"}
        if not self._local:
            self._names.add(socket.gethostname().lower())

    def __contains__(self, host: str) -> bool:
        """host: what a Host header says, with a port or without one. An address cannot be made to point elsewhere."""
        sound = _SOUND_HOST.fullmatch(host)
        name = sound[1].strip("[]").lower() if sound else ""
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return name in self._names or not self._local or address.is_loopback


def _sound_name(name: str) -> str:
    sound = _SOUND_HOST.fullmatch(name)
    if not sound or sound[2]:
        raise UsageError(f"--allow-host {name}: give the name of a host, without scheme and port")
    return sound[1].strip("[]").lower()


class SecurityMiddleware:
    """An ASGI application around another one: asks for Host, Origin and token; gives ids; counts and logs."""

    def __init__(
        self,
        app: ASGIApp,
        batcher: Batcher,
        limits: Limits,
        watch: Telemetry,
        hosts: Hosts,
        token: str | None,
        paths: frozenset[str],
    ):
        """paths: those without parameters, by which requests are named that were refused here."""
        self.app, self.limits, self.watch = app, limits, watch
        self._paths = paths
        self._batcher = batcher
        self._hosts = hosts
        self._token = token.encode() if token is not None else None
        self.draining = False
        """Whether the service is about to end: it answers, but is not ready, and each answer ends its connection."""
        self.arrived = 0
        """Requests for an answer that are whole and not answered; the connections keep count of them."""

    def start(self) -> None:
        """Begin what the first request would have to wait for."""
        self._batcher.decoders.start()

    def close(self) -> None:
        """Release what was started. No request may be in progress."""
        self._batcher.close()

    @property
    def full(self) -> bool:
        """Whether a request for an answer would be refused."""
        return self._batcher.full or self.arrived >= self.limits.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        answer = _Answer(send, receive, self, headers)
        state = scope["state"]
        state |= {"id": answer.ident, "client": (scope.get("client") or ("unknown",))[0]}
        try:
            self._check(scope, headers)
            app = _not_ready if self.draining and _asks_ready(scope) else self.app
            await app(scope, answer.receive, answer.send)
        except RefusalError as refusal:
            await refusal.response()(scope, receive, answer.send)
        except ClientDisconnect:
            answer.status = _GONE
        except asyncio.CancelledError:  # the service ends, and has waited long enough
            if answer.status == _GONE:
                await busy("the service ends").response()(scope, receive, answer.send)
        except Exception as error:
            answer.status = 500  # it was answered so already, by what catches all in FastAPI
            log_error(error, id=answer.ident)
        finally:
            status = state.pop("answered", answer.status)  # the connection itself may have answered
            self.watch.request(answer.seconds(), scope["method"][:16], self._route(scope), status, state)

    def _route(self, scope: Scope) -> str:
        """What was asked for, in words of ours: labels stay few, and the log repeats nothing that was sent."""
        if "route" in scope:
            return str(scope["route"].path)
        return str(scope["path"]) if scope["path"] in self._paths else "other"

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        is_health = _is_health(scope)
        if host not in self._hosts and not is_health:  # checks come without one (HAProxy), or with any (Kubernetes)
            raise RefusalError(400, "the Host header names another host: tenfold serve --allow-host NAME admits it")
        if b"content-length" in headers and b"transfer-encoding" in headers:  # as RFC 9112, 6.1 advises
            raise RefusalError(400, "two lengths of one body: an attack, or a broken proxy", {"Connection": "close"})
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").partition("://")[2].lower() != host.lower():
            raise RefusalError(403, "a page of another origin may not ask here")
        if scope["path"] not in OPEN and not is_health and not self._has_token(headers):
            raise RefusalError(
                401, "a token is needed: send Authorization: Bearer TOKEN, or X-API-Key", {"WWW-Authenticate": "Bearer"}
            )

    def _has_token(self, headers: dict[bytes, bytes]) -> bool:
        if self._token is None:
            return True
        kind, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, self._token)  # bytes: of text it takes ASCII only


def _asks_ready(scope: Scope) -> bool:
    """Whether it is asked only if the service takes requests. HAProxy, unless configured otherwise, asks OPTIONS /."""
    return bool(_READY.fullmatch(scope["path"])) or (scope["method"], scope["path"]) == ("OPTIONS", "/")


def _is_health(scope: Scope) -> bool:
    return scope["path"] == _ALIVE or _asks_ready(scope)


async def _not_ready(scope: Scope, receive: Receive, send: Send) -> None:
    body = {"error": "the service ends: send no more requests here", "ready": False}
    await JSONResponse(body, 503)(scope, receive, send)


class _Answer:
    """Passes an answer on, with our headers, and remembers its status."""

    def __init__(self, send: Send, receive: Receive, guard: SecurityMiddleware, headers: dict[bytes, bytes]):
        self.ident, self.status = _ident(headers.get(b"x-request-id", b"")), _GONE
        self._send, self._receive, self._guard = send, receive, guard
        self._began = time.perf_counter()
        self._holds_back = headers.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> Message:
        self._holds_back = False  # we ask the client to send the body
        return await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            added = [*_HEADERS, (b"x-request-id", self.ident.encode())]
            # of a body that was held back nobody knows whether it comes, or the next request (RFC 9110, 10.1.1)
            if self._guard.draining or self._holds_back:
                added.append((b"connection", b"close"))
            message["headers"] = [*message["headers"], *added]
        await self._send(message)

    def seconds(self) -> float:
        return time.perf_counter() - self._began


def _ident(given: bytes) -> str:
    """The request's id: the client's own where it is sound."""
    return given.decode() if _SOUND_ID.fullmatch(given) else secrets.token_hex(8)
