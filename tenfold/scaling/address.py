"""The address of a cluster, looked at before Ray is asked: what else may listen there keeps Ray waiting for minutes.

Ray's own server speaks gRPC, and so HTTP/2: it answers a client's first bytes with its settings (RFC 9113, 3.4).
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from tenfold.errors import UsageError

PATIENCE = 10.0
"""Seconds until an address that does not answer is given up."""
BEGIN = "begin one with ray start --head, see docs/guides/scaling.md"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and settings, none of them
_SETTINGS = 4

Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work` returns. Raises `TimeoutError` after so long: looking up a name, for one, cannot be broken off."""
    found: Future[Result] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found.result(seconds)


def missing(address: str) -> UsageError:
    """There is nothing at that address."""
    return UsageError(f"no Ray cluster at {address}: {BEGIN}")


def foreign(address: str) -> UsageError:
    """There is something else at that address."""
    return UsageError(f"what answers at {address} is no Ray cluster, or one that wants a token: {BEGIN}")


def check(address: str) -> None:
    """Raise `UsageError`, within seconds, unless HOST:PORT is an address at which something may be Ray."""
    host, port = _split(address)
    try:
        first = within(PATIENCE, lambda: _first_answer(host, port))
    except socket.gaierror as error:
        raise UsageError(f"--cluster {address}: there is no machine named {host}") from error
    except ConnectionResetError as error:
        raise foreign(address) from error
    except TimeoutError as error:  # of the connection, or of what accepts it and is silent
        raise UsageError(f"nothing answers at {address} within {PATIENCE:g} seconds: {BEGIN}") from error
    except (OSError, UnicodeError) as error:
        raise missing(address) from error
    if len(first) < 4 or first[3] != _SETTINGS:
        raise foreign(address)


def _split(address: str) -> tuple[str, int]:
    if "://" in address:
        host = address.partition("://")[2].rpartition(":")[0] or "HOST"
        raise UsageError(
            f"--cluster {address}: write {host}:6379, the address that ray start --head prints, without a scheme "
            "(the port of ray:// is that of Ray's client, the one of http:// its dashboard's: neither is used here)"
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise UsageError(f"--cluster {address}: write HOST:PORT, as ray start --head prints it, or auto")
    return host.strip("[]"), int(port)


def _first_answer(host: str, port: int) -> bytes:
    """The head of the first frame, if it is HTTP/2; with TLS, whose certificates are Ray's business, it is assumed."""
    with socket.create_connection((host, port), timeout=PATIENCE / 2) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):  # as Ray reads it
            return bytes([0, 0, 0, _SETTINGS])
        connection.sendall(_PREFACE)
        return connection.recv(9)


def find(ray: Any, address: str) -> str:
    """HOST:PORT of the cluster; its head has said within seconds that it is one. Else `ray.init` waits for minutes.

    ray: the module. Raises what it does, `TimeoutError`, or `UsageError`.
    """
    # no public part of Ray asks so little
    found = ray._private.services.canonicalize_bootstrap_address(address)  # also for `auto` and names of this machine
    if found is None:
        raise ConnectionError
    check(found)
    with _no_native_warnings():
        within(PATIENCE, lambda: ray._raylet.GcsClient(address=found))
    return str(found)


@contextlib.contextmanager
def _no_native_warnings() -> Iterator[None]:
    """Ray's C++ writes warnings past Python to standard error, where our one line says the same."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
