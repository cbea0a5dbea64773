"""What is known of the service while it runs: a line of JSON for each request, and numbers for Prometheus.

No content, name or description of an image is written anywhere.
"""

import asyncio
import contextlib
import json
import logging
import os
import queue
import sys
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tenfold.serving.serve.decoders import Usage

LOG = logging.getLogger("tenfold.serve")
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_MOST_LINES = 10_000
_IMAGES = (1, 2, 4, 8, 16, 32, 64)
UNREAD = "unread"
"""The route of a request that was answered before it was known what it asks for."""


class Telemetry:
    """The numbers of one service."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        PlatformCollector(registry=own)
        self.waiting = Gauge("tenfold_requests_waiting", "Requests at work or waiting for it.", registry=own)
        self.images = Counter("tenfold_images", "Images answered.", registry=own)
        self.refused = Counter("tenfold_refused", "Requests refused unread, since too many wait.", registry=own)
        self.inference = Histogram(
            "tenfold_inference_duration_seconds", "Seconds of one batch in the model.", registry=own, buckets=_SECONDS
        )
        self.batch = Histogram("tenfold_batch_images", "Images of one batch.", registry=own, buckets=_IMAGES)
        self.dropped = Counter("tenfold_dropped_connections", "Connections dropped by us.", ["reason"], registry=own)
        self._requests = Counter("tenfold_requests", "Requests answered.", ["route", "status"], registry=own)
        self._seconds = Histogram(
            "tenfold_request_duration_seconds", "Seconds of one request.", ["route"], registry=own, buckets=_SECONDS
        )
        self._unread: Tally[tuple[str, int]] = Tally()

    def add_decoders(self, usage: Callable[[], Usage]) -> None:
        """Show what the processes that decode images use, as `usage` says."""
        self.registry.register(_DecoderCollector(usage))

    def request(self, seconds: float, method: str, route: str, status: int, fields: dict[str, Any]) -> None:
        """Count and log an answered request. route: as the service calls it, so that labels stay few."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)
        log("request", method=method, route=route, status=status, seconds=round(seconds, 6), **fields)

    def unread(self, route: str, status: int) -> None:
        """Count a request that was answered unread; `flush` logs it. There may be thousands of them in a second."""
        self._requests.labels(route, status).inc()
        self._unread[route, status] += 1

    def flush(self) -> None:
        """Log what `unread` counted since the last time, a line for each route and status; called every second."""
        tallies, self._unread = self._unread, Tally()
        for (route, status), requests in tallies.items():
            log("refused", route=route, status=status, requests=requests)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class _DecoderCollector:
    """Reads the decoders' usage whenever the numbers are asked for."""

    def __init__(self, usage: Callable[[], Usage]):
        self._usage = usage

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus_client's registry wants them."""
        used = self._usage()
        yield GaugeMetricFamily("tenfold_decoder_processes", "Processes that decode images.", used.processes)
        help_cpu = "User and system CPU seconds of the decoder processes, ended ones included."
        yield CounterMetricFamily("tenfold_decoder_cpu_seconds", help_cpu, used.cpu_seconds)
        help_memory = "Resident memory of the decoder processes, in bytes."
        yield GaugeMetricFamily("tenfold_decoder_resident_memory_bytes", help_memory, used.resident_bytes)


def log(event: str, **fields: Any) -> None:
    """Write one line of JSON on standard error."""
    LOG.info(event, extra={"fields": fields})


def log_error(error: Exception, **fields: Any) -> None:
    """The same for what should not have happened, with its trace."""
    LOG.error("error", extra={"fields": fields}, exc_info=error)


class _Json(logging.Formatter):
    """One line of ASCII, whatever a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": time, "level": record.levelname.lower(), "event": record.getMessage().strip()}
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _is_no_interruption(record: logging.LogRecord) -> bool:
    """A second Ctrl-C breaks off what is in flight, as it is meant to: no trace of that."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, KeyboardInterrupt | asyncio.CancelledError)


class Lines(logging.Handler):
    """Writes lines to standard error from a thread of its own: a reader that does not read holds up no request.

    Lines that find no room are lost; how many is said as soon as there is room again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0
        self._queue: queue.Queue[bytes | threading.Event] = queue.Queue(_MOST_LINES)
        threading.Thread(target=self._write, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(self.format(record).encode() + b"\n")
        except queue.Full:
            self._lost += 1  # one thread only logs: that of the event loop
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            log("lost", lines=lost)

    def end(self) -> None:
        """Give what waits a second to be written."""
        written = threading.Event()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(written)
            written.wait(1)

    def _write(self) -> None:
        while True:
            line = self._queue.get()
            if isinstance(line, threading.Event):
                line.set()
            else:
                with contextlib.suppress(OSError):  # nobody reads any more
                    _write_all(line)


def _write_all(content: bytes) -> None:
    while content:
        content = content[os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, content) :]


def begin_log() -> Lines:
    """Send the lines of the service, and what its libraries report as errors, to standard error."""
    handler = Lines()
    handler.setFormatter(_Json())
    logging.basicConfig(handlers=[handler], level=logging.ERROR, force=True)
    LOG.handlers, LOG.propagate = [handler], False  # else the event loop printed each as a message of the command, too
    LOG.setLevel(logging.INFO)
    logging.getLogger("tenfold").propagate = False  # the command shows its messages itself
    logging.getLogger("uvicorn.error").addFilter(_is_no_interruption)
    for parser in ("python_multipart", "PIL"):  # clients get the error themselves
        logging.getLogger(parser).setLevel(logging.CRITICAL)
    return handler
