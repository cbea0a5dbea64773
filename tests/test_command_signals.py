"""Signals that come while Python ignores exceptions: the command ends all the same."""

import signal
import subprocess
import sys
import textwrap

import pytest

from tests.support.waiting import LONG

PREPARED = """
import os, signal, time, weakref
from tenfold.cli import signals
from tenfold.errors import Terminated

signals.handle()

class Thing:
    pass

def interrupt(*_):
    os.kill(os.getpid(), signal.{number})
    for _ in range(1000):
        pass  # the handler runs in here

"""
PLACES = {
    "finaliser": "Thing.__del__ = interrupt\nthing = Thing()\ndel thing",
    "weak reference": "thing = Thing()\nreference = weakref.ref(thing, interrupt)\ndel thing",
    "garbage collection": "import gc\ngc.callbacks.append(interrupt)\ngc.collect()\ngc.callbacks.clear()",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_within_a_callback_is_not_lost(place: str, number: signal.Signals) -> None:
    """A search ran on after SIGTERM, which had been raised in a weak reference's callback of a library."""
    tried = "try:\n" + textwrap.indent(PLACES[place] + "\ntime.sleep(60)", "    ")
    caught = "\nexcept (KeyboardInterrupt, Terminated) as error:\n    print(type(error).__name__)"
    code = PREPARED.format(number=number.name) + tried + caught
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=True)
    assert ended.stdout == {signal.SIGTERM: "Terminated\n", signal.SIGINT: "KeyboardInterrupt\n"}[number]
    assert ended.stderr == ""


def test_other_ignored_exceptions_are_printed_as_ever() -> None:
    code = "from tenfold.cli import signals\nsignals.handle()\nclass A:\n    def __del__(self): 1 / 0\nA()\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=True)
    assert ended.stderr.startswith("Exception ignored in") and "ZeroDivisionError" in ended.stderr
