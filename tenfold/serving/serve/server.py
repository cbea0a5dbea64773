"""An address → a running service, until a signal ends it."""

import asyncio
import contextlib
import errno
import gc
import ipaddress
import math
import socket
import sys
from collections.abc import Iterable
from types import FrameType

import uvicorn

from tenfold.console import log_info
from tenfold.errors import BusyError, Terminated, UsageError
from tenfold.serving.predictor import Predictor
from tenfold.serving.serve.app import make_app
from tenfold.serving.serve.connection import TimeoutProtocol, sweep
from tenfold.serving.serve.guard import Hosts, SecurityMiddleware
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.watch import begin_log, log

# Connections that wait, and are taken at once, before one too many can be dropped: of fewer, those that come in a burst
# begin again after a second (64 were too few); with the others, no more than the 1,024 files that many systems allow.
_BACKLOG = 384
_OTHER_FILES = 64


def bind(host: str, port: int, token: str | None) -> socket.socket:
    """Take an address; nobody is let in yet. port: 0 for any that is free.

    Raises `UsageError` for an address that is unknown, or open to others without a token; `BusyError` for a port in
    use.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise UsageError(f"--host {host}: there is no such address") from error
    if not token and not ipaddress.ip_address(address[0]).is_loopback:
        raise UsageError(f"--host {host} is open to other machines: set TENFOLD_TOKEN, which they must send then")
    bound = socket.socket(family, kind)
    if sys.platform != "win32":  # there, it would let two services share a port
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(f"port {port} of {host} is in use: choose another --port") from error
        raise UsageError(f"--host {host} --port {port}: {error.strerror}") from error
    return bound


def check_token(token: str | None) -> None:
    """Raise `UsageError` for a token that cannot be sent in a header."""
    if token == "":
        raise UsageError("the token is empty: leave --token and TENFOLD_TOKEN out, or give one")
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token):
        raise UsageError("the token must be printable ASCII, without spaces around it")


def serve(
    classifier: Predictor,
    name: str,
    bound: socket.socket,
    token: str | None = None,
    hosts: Iterable[str] = (),
    drain: float = Limits.drain,
) -> None:
    """Answer until SIGTERM or Ctrl-C and `drain` seconds longer; then requests in flight are finished.

    Prints the address when it is ready. A second signal ends it at once.
    """
    connections = min(Limits().connections, _open_files() - _BACKLOG - _OTHER_FILES)
    limits = Limits(connections=connections, drain=drain)
    app = make_app(classifier, name, Hosts(bound.getsockname()[0], hosts), token, limits)
    lines = begin_log()
    try:
        with contextlib.suppress(KeyboardInterrupt, Terminated):  # uvicorn raises the signal again when all is done
            app.start()
            make_server(app).run(sockets=[bound])
    finally:
        app.close()
        log("stopped")
        lines.end()


def _open_files() -> int:
    """How many files and connections this process may have open, after asking for as many as are needed.

    Raises `UsageError` where these are too few.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return sys.maxsize
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = Limits().connections + _BACKLOG + _OTHER_FILES
    if limit < needed and (most == resource.RLIM_INFINITY or most > limit):
        limit = needed if most == resource.RLIM_INFINITY else min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    if limit < 2 * (_BACKLOG + _OTHER_FILES):
        raise UsageError(f"only {limit} files may be open here, which are too few connections: raise ulimit -n")
    return limit


def make_server(app: SecurityMiddleware) -> uvicorn.Server:
    """What runs the service, with its deadlines, on sockets that are bound."""
    config = uvicorn.Config(
        app,
        http=TimeoutProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        backlog=_BACKLOG,
        timeout_keep_alive=math.ceil(app.limits.arrival),
        timeout_graceful_shutdown=math.ceil(app.limits.leaving),
    )
    return _Server(config, app)


class _Server(uvicorn.Server):
    """uvicorn's, which says where it is, drops late connections, and drains before it ends."""

    def __init__(self, config: uvicorn.Config, app: SecurityMiddleware):
        super().__init__(config)
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._sweeping = asyncio.create_task(self._sweep())
        gc.freeze()  # what is there stays: while it was looked through for garbage, nobody would be answered
        assert sockets
        host, port = sockets[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(url, flush=True)
        if sys.stderr.isatty():
            log_info("open it in a browser; Ctrl-C ends it")
        log("listening", url=url)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            sweep(self.server_state.connections, loop.time())
            self._app.watch.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: drain; a second one: end at once."""
        if self.should_exit and self._loop:
            self._loop.call_soon_threadsafe(self._end_at_once)
        self._app.draining = True
        super().handle_exit(sig, frame)

    def _end_at_once(self) -> None:
        self.force_exit = True
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain()
        await asyncio.sleep(0)  # who has connected by now is let in: closing would reset the connection
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.1)  # and may ask
        if self.force_exit:
            self._end_at_once()
        await super().shutdown(sockets)  # lets what is under way finish
        self._sweeping.cancel()
        self._app.watch.flush()
        gc.unfreeze()

    async def _drain(self) -> None:
        """Answer for a while as before, so that whoever sends requests here learns that others must have them."""
        self._app.draining = True
        seconds, loop = self._app.limits.drain, asyncio.get_running_loop()
        log("draining", seconds=seconds)
        end = loop.time() + seconds
        while loop.time() < end and not self.force_exit:
            await asyncio.sleep(0.1)
            await self.on_tick(0)  # keeps the date in answers
