"""Closing a connection so that the client can still read its answer.

If we closed while the client sends, what arrives afterwards would make the system reset the connection, and the reset
destroys the answer on its way (RFC 9112, 9.6). So we end our side only, and read and discard for a while what the
client still sends, as nginx's `lingering_close` does.
"""

from collections.abc import Callable
from typing import Any

LINGER = 2.0
"""Seconds that a client may take, without a byte, to read its answer and close."""


class LingeringTransport:
    """A transport whose `close` is the connection's own way to finish; all else is passed on.

    uvicorn closes the transport right after an answer that ends the connection; this is where we step in.
    """

    def __init__(self, transport: Any, finish: Callable[[], None]):
        self.plain = transport
        """The transport itself: its `close` is at once."""
        self._finish = finish
        self.is_ended = False
        """Whether our side has ended."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def close(self) -> None:
        """Finish: what was written is still sent."""
        self._finish()

    def end(self) -> None:
        """Say that nothing more comes from us, and go on reading."""
        self.is_ended = True
        try:
            self.plain.write_eof()
        except OSError:  # the client's end is gone already: then there is nobody to wait for
            self.plain.abort()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self.is_ended or self.plain.is_closing()
