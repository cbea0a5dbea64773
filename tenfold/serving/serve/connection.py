"""Connections that end: uvicorn's protocol, with deadlines for what it waits for without end.

uvicorn (measured: 0.54) keeps sockets that send nothing, or a byte now and then, for as long as they like; so here each
connection knows since when it makes us wait, and `sweep`, called every second, drops the late ones. Where too many
requests wait already, new ones are refused by their first bytes, unparsed, which takes a tenth of answering them.
"""

import json
import math
import socket
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.watch import Watch, log

LINGER = 2.0
"""Seconds in which a client may go on sending after it was refused, so that it reads why (RFC 9112, 9.6)."""
_PIECE = 4096
"""Bytes that are parsed at a time."""
_SMALL = 16
"""Bytes of a line that, on average, no honest client's chunks fall below."""
_WORK = (b"POST /predict", b"POST /v2/models/")


def _answer(status: str, said: str, header: str = "") -> bytes:
    body = json.dumps({"error": said})
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n{header}"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


_BUSY = _answer("503 Service Unavailable", "as many requests wait as can: try again", "retry-after: 1\r\n")
_UNSOUND = _answer("400 Bad Request", "this is no sound HTTP request")
_LATE = _answer("408 Request Timeout", "the request did not arrive in time")


class Connection(H11Protocol):
    """One client. Its application has `limits`, `watch`, and `full`: whether to refuse work."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # else the second part of an answer waits for the receipt of the first; asyncio does it for some sockets only
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.limits: Limits = self.app.limits
        self.watch: Watch = self.app.watch
        self.began = self.loop.time()
        """When we began to wait for the request, or to linger."""
        self.received, self.latest = 0, self.began
        self.between = True  # requests: the next byte begins one
        self.refused = self.arrived = self.work = False
        self.stuck: float | None = None
        if len(self.connections) > self.limits.connections:
            waiting = [other for other in self.connections if isinstance(other, Connection) and other.is_waiting()]
            # rather one that asks nothing than one in the middle of a request
            min(waiting, key=lambda other: (not other.between, other.began), default=self).drop("too many")

    def data_received(self, data: bytes) -> None:
        self.latest = self.loop.time()
        if self.refused:
            return
        if self.between and not self._is_answering():  # else it belongs to requests sent ahead
            self.between, self.began, self.received = False, self.latest, 0
            self.work = data.startswith(_WORK)
            if self.work and self.app.full:
                self.watch.refused.inc()
                self._refuse(_BUSY)
                return
        self.received += len(data)
        self._feed(data)
        self._count(self.work and self.conn.their_state in (h11.DONE, h11.MUST_CLOSE))
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.between, self.began = True, self.loop.time()

    def _feed(self, data: bytes) -> None:
        """Parse a little at a time: of small chunks, each takes as long as a large one, and all others wait."""
        at = 0
        while at < len(data) and not (self.refused or self.transport.is_closing()):
            small = self.conn.their_state is h11.IDLE or self._is_chunked()
            piece = data[at : at + _PIECE] if small else data[at:]
            at += len(piece)
            super().data_received(piece)
            if self._is_chunked() and piece.count(b"\r\n") > _PIECE // _SMALL:
                self.drop("chunks too small")

    def _is_chunked(self) -> bool:
        sending = self.conn.their_state is h11.SEND_BODY
        return sending and any(name == b"transfer-encoding" for name, _ in self.headers)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _count(self, arrived: bool) -> None:
        """Keep count of requests that are whole and not answered."""
        self.app.arrived += arrived - self.arrived
        self.arrived = arrived

    def connection_lost(self, exc: Exception | None) -> None:
        self._count(False)
        super().connection_lost(exc)

    def _refuse(self, answer: bytes) -> None:
        """Say why, then wait for the client to end: if we closed, what it still sends would destroy the answer."""
        self.refused, self.began = True, self.latest
        self._unset_keepalive_if_required()
        self.transport.write(answer)
        self.transport.write_eof()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:
            self._refuse(_UNSOUND)
        else:
            self.transport.abort()  # it broke off in the middle of a body, or what follows an answer is no request

    def on_response_complete(self) -> None:
        self.between = self.conn.their_state is h11.DONE
        self._count(False)
        self.began = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self.stuck = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stuck = None
        super().resume_writing()

    def is_waiting(self) -> bool:
        """Whether it is the client's turn to send."""
        asked = self.refused or self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        return asked and not self.transport.is_closing()

    def check(self, now: float) -> None:
        """Drop this connection where it is late."""
        if self.transport.is_closing():
            if now - self.began > self.limits.reading:  # it does not take what was said last
                self.transport.abort()
        elif self.stuck is not None and now - self.stuck > self.limits.reading:
            self.drop("reads too slowly")
        elif self.is_waiting() and (now - self.began > self._patience() or now - self.latest > self._silence()):
            self.drop("sends too slowly")

    def _patience(self) -> float:
        """Seconds that the client has from `began` on."""
        if self.refused or (self.conn.our_state is h11.DONE and not self.between):
            return LINGER
        if self.conn.their_state is h11.SEND_BODY:
            return self.limits.arrival + self.received / self.limits.bytes_per_second
        return self.limits.arrival

    def _silence(self) -> float:
        """Seconds without a byte that are borne in the middle of a request, whatever it sent before."""
        return math.inf if self.between or self.refused else self.limits.arrival

    def drop(self, reason: str) -> None:
        """End the connection at once, with 408 where a request was begun and not answered."""
        self.watch.dropped.labels(reason).inc()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.scope["state"]["dropped"] = reason  # its line of the log tells it
        elif not self.between:
            log("dropped", reason=reason, client=(self.client or ("unknown",))[0])
        if not self.between and not self.refused and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_LATE)
        self.began = self.loop.time()
        if self.stuck is not None:
            self.transport.abort()
        self.transport.close()


def sweep(connections: Iterable[Any], now: float) -> None:
    """Drop those that are late; called every second."""
    for connection in list(connections):
        connection.check(now)
