"""What the service takes on, so that no request, and no number of them, can exhaust it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes, counts and seconds beyond which the service says no."""

    body: int = 16 * 2**20
    """Bytes of one request's body; more is answered with 413."""
    held: int = 128 * 2**20
    """Bytes of all bodies together; more is answered with 503."""
    images: int = 32
    """Images of one request; more is answered with 413."""
    pixels: int = 2**25
    """Of one image (33 megapixels; a JPEG may have 67, since a large one is decoded at half its scale); more is
    answered with 413."""
    memory: int = 2**30
    """Bytes that decoding one image may take (33 megapixels take 0.4 to 0.8 GB, a JPEG of 50 up to 0.5); more is
    answered with 400."""
    decoding: float = 4.0
    """Seconds of a core that decoding one image may take (not limited on Windows); more is answered with 400."""
    waiting: int = 32
    """Requests whose images are decoded or answered, or wait for it; more is answered with 503."""
    seconds: float = 10.0
    """Until the images of a request are answered; later it is answered with 503. Longer than `decoding`."""
    arrival: float = 8.0
    """Seconds in which a request must arrive whole, and a connection may stay idle, also in the middle of one."""
    bytes_per_second: int = 2**16
    """What has arrived of a body prolongs `arrival` at this rate, so that slow but honest senders are heard out."""
    reading: float = 10.0
    """Seconds in which a client must take an answer that fills its connection."""
    connections: int = 500
    """Open connections; for one more, the one that has made us wait longest is dropped."""
    lingering: float = 30.0
    """Seconds at most in which what a client still sends after its answer is read and discarded."""
    discarded: int = 128 * 2**20
    """Bytes at most that are so discarded; then the connection is reset."""
    drain: float = 2.0
    """Seconds after SIGTERM in which new requests and connections are still answered."""
    leaving: float = 6.0
    """Seconds after these for requests in flight to finish."""
