"""What the service says where it does not answer: one form for all errors."""

from collections.abc import Mapping

from starlette.responses import JSONResponse


class RefusalError(Exception):
    """An HTTP status and one sentence about it, without a path of this machine."""

    def __init__(self, status: int, said: str, headers: Mapping[str, str] | None = None):
        super().__init__(said)
        self.status, self.said, self.headers = status, said, headers

    def response(self) -> JSONResponse:
        """`{"error": sentence}` with the status."""
        return JSONResponse({"error": self.said}, self.status, self.headers)


def busy(said: str) -> RefusalError:
    """503, to be tried again in a second."""
    return RefusalError(503, f"{said}: try again", {"Retry-After": "1"})
