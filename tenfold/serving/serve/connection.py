"""Connections that end: uvicorn's protocol, with deadlines for what it waits for without end.

uvicorn (measured: 0.54) keeps sockets that send nothing, or a byte now and then, for as long as they like; so here each
connection knows since when it makes us wait, and `sweep`, called every second, drops the late ones. Where too many
requests wait already, new ones are refused by their first bytes, unparsed, which takes a tenth of answering them.
"""

import json
import math
import socket
import sys
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.linger import LINGER, LingeringTransport
from tenfold.serving.serve.watch import UNREAD, Telemetry, log

_PIECE = 4096
"""Bytes that are parsed at a time."""
_SMALL = 16
"""Bytes of a line that, on average, no honest client's chunks fall below."""
_WORK = {b"POST /predict": "/predict", b"POST /v2/models/": "/v2/models/{name}/infer"}
"""How requests for an answer begin, and what their route is called."""
_CLOSE = (b"connection", b"close")


def _answer(status: int, said: str, header: str = "") -> bytes:
    body = json.dumps({"error": said})
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}{header}content-length: {len(body)}\r\n\r\n{body}".encode()


_EARLY = {
    400: _answer(400, "this is no sound HTTP request"),
    408: _answer(408, "the request did not arrive in time"),
    431: _answer(431, "the head of the request is too large"),
    503: _answer(503, "as many requests wait as can: try again", "retry-after: 1\r\n"),
}


class TimeoutProtocol(H11Protocol):
    """One client. Its application has `limits`, `watch`, and `full`: whether to refuse work."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # else the second part of an answer waits for the receipt of the first; asyncio does it for some sockets only
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = LingeringTransport(transport, self._finish)
        self.limits: Limits = self.app.limits
        self.watch: Telemetry = self.app.watch
        self.began = self.loop.time()
        """When we began to wait for the request, or, after an answer, for the rest of it or the client's close."""
        self.received, self.latest = 0, self.began  # bytes since `began`
        self.between = True  # requests: the next byte begins one
        self.arrived = self.ending = False
        self.work: str | None = None
        self.stuck: float | None = None
        if len(self.connections) > self.limits.connections:
            waiting = [other for other in self.connections if isinstance(other, TimeoutProtocol) and other.is_waiting()]
            # rather one that was answered, or asks nothing, than one in the middle of a request
            order = lambda other: (not other.is_lingering, not other.between, other.began)  # noqa: E731
            min(waiting, key=order, default=self).drop("too many")

    @property
    def is_lingering(self) -> bool:
        """Whether all was said, and what still arrives is discarded."""
        return bool(self.transport.is_ended)

    def data_received(self, data: bytes) -> None:
        self.latest = self.loop.time()
        if self.is_lingering:
            self._discard(len(data))
            return
        if self.between and not self._is_answering():  # else it belongs to requests sent ahead
            self.between, self.began, self.received = False, self.latest, 0
            self.work = next((route for start, route in _WORK.items() if data.startswith(start)), None)
            if self.work and self.app.full:
                self.watch.refused.inc()
                self._refuse(503)
                return
        self.received += len(data)
        self._feed(data)
        self._count(self.work is not None and self.conn.their_state in (h11.DONE, h11.MUST_CLOSE))
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.between, self.began = True, self.loop.time()
        elif self._is_discarding():
            self._discard(0)

    def _feed(self, data: bytes) -> None:
        """Parse a little at a time: of small chunks, each takes as long as a large one, and all others wait."""
        at = 0
        while at < len(data) and not self.transport.is_closing():
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

    # --- answers of our own, and the end of a connection -------------------------------------------------------------

    def _refuse(self, status: int) -> None:
        """Say why, count it, and end; the application, where it has the request, sees its client disconnect."""
        if self._is_answering():
            self.cycle.scope["state"]["answered"] = status  # the application counts and logs it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            self.watch.unread(self.work or UNREAD, status)
        self.transport.write(_EARLY[status])
        self._linger()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls, in its handler of h11's error, where a request cannot be parsed."""
        too_large = getattr(sys.exception(), "error_status_hint", 400) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(431 if too_large else 400)
        elif self._is_answering():
            self.transport.abort()  # nothing can be said in the middle of an answer
        else:
            self._linger()  # it was answered before

    def _finish(self) -> None:
        """Close after an answer: at once where the client has said all that it will, else when it had time to read."""
        if self.transport.is_closing():
            return
        arrived = self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        whole = arrived and not self.conn.trailing_data[0]
        if whole and self.headers and _CLOSE in self.headers:
            self.transport.plain.close()
        else:
            self._linger()

    def _linger(self) -> None:
        if not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._count(False)
            self.began = self.latest = self.loop.time()
            self.received = 0
            self.flow.resume_reading()
            self.transport.end()

    def _discard(self, count: int) -> None:
        """Take in what is not read any more, up to a limit."""
        self.received += count
        if self.received > self.limits.discarded:
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        """What uvicorn calls where a client has asked nothing for long."""
        self._finish()

    def shutdown(self) -> None:
        """The service ends: what is under way is answered, what asks nothing is closed."""
        self.ending = True
        if not self._is_answering():
            self.check(self.loop.time())  # else its answer says that the connection ends

    def on_response_complete(self) -> None:
        self.between = self.conn.their_state is h11.DONE
        self._count(False)
        if not self.is_lingering:
            self.began, self.received = self.loop.time(), 0
        super().on_response_complete()

    # --- deadlines ---------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self.stuck = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stuck = None
        super().resume_writing()

    def is_waiting(self) -> bool:
        """Whether it is the client's turn to send, or to close."""
        asked = self.is_lingering or self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        return asked and not self.transport.plain.is_closing()

    def _is_discarding(self) -> bool:
        """Whether the rest of a request is read that was answered before."""
        return self.conn.our_state is h11.DONE and not self.between

    def check(self, now: float) -> None:
        """Drop this connection where it is late."""
        late = now - self.began > self._patience() or now - self.latest > self._silence()
        if self.transport.plain.is_closing():
            if now - self.began > self.limits.reading:  # it does not take what was said last
                self.transport.abort()
        elif self.is_lingering:
            if late:
                self.transport.plain.close()
        elif self.stuck is not None and now - self.stuck > self.limits.reading:
            self.drop("reads too slowly")
        elif (
            self.ending
            and self.between
            and not self._is_answering()
            and (self.cycle is not None or now - self.began > LINGER)
        ):
            self._finish()  # a connection that has only just come may be about to ask
        elif self.is_waiting() and late:
            self.drop("sends too slowly")

    def _patience(self) -> float:
        """Seconds that the client has from `began` on."""
        sent = self.received / self.limits.bytes_per_second
        if self.is_lingering or self._is_discarding():
            return min(LINGER + sent, self.limits.lingering)
        if self.conn.their_state is h11.SEND_BODY:
            return self.limits.arrival + sent
        return self.limits.arrival

    def _silence(self) -> float:
        """Seconds without a byte that are borne in the middle of a request, whatever it sent before."""
        if self.is_lingering:
            return LINGER
        return math.inf if self.between else self.limits.arrival

    def drop(self, reason: str) -> None:
        """End the connection, with 408 where a request was started and not answered."""
        self.watch.dropped.labels(reason).inc()
        if self._is_answering():
            self.cycle.scope["state"]["dropped"] = reason  # its line of the log tells it
        elif not self.between and not self.is_lingering:
            log("dropped", reason=reason, client=(self.client or ("unknown",))[0])
        unanswered = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if self.stuck is not None:
            self.transport.abort()
        elif unanswered and not self.between and not self.is_lingering:
            self._refuse(408)
        else:
            self.began = self.loop.time()
            self.transport.plain.close()


def sweep(connections: Iterable[Any], now: float) -> None:
    """Drop those that are late; called every second."""
    for connection in list(connections):
        connection.check(now)
