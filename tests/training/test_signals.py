"""How Ctrl-C and SIGTERM are answered between steps."""

import os
import signal
from types import FrameType

import pytest

from tenfold.errors import Terminated
from tenfold.training.signals import DeferredSignals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_waits_until_it_is_released(number: int, raised: type[BaseException]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(raised), DeferredSignals() as held:
        held.release()
        assert not held.waiting
        send(number)
        assert held.waiting
        held.release()
    assert signal.getsignal(number) is before


def test_a_second_signal_is_not_held() -> None:
    with pytest.raises(KeyboardInterrupt), DeferredSignals():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        pytest.fail("the second signal was held")


def test_a_signal_after_the_last_step_is_not_lost() -> None:
    """Without the release at the end of the block: it is."""
    reached = False
    with pytest.raises(Terminated), DeferredSignals():
        send(signal.SIGTERM)
        reached = True
    assert reached


def test_an_error_goes_before_a_signal() -> None:
    with pytest.raises(ZeroDivisionError), DeferredSignals():
        send(signal.SIGTERM)
        _ = 1 / 0


def test_handlers_of_others_come_back() -> None:
    seen: list[int] = []

    def mine(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with DeferredSignals():
            pass
        send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
