"""What all tests share: real CIFAR-10, the command as a process, and a recipe small enough for a test."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import tenfold
from tenfold import registry
from tenfold.console import show_logs
from tenfold.data import DATASETS, Dataset
from tests.support import process
from tests.support.coarse_plots import use_coarse_plots
from tests.support.few_shapes import use_few_shapes
from tests.support.process import Command, Invoke

# Small tensors are computed no faster by many threads, and far slower on a busy machine. PyTorch reads this when it is
# imported, here and in the processes of tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = (
    *("test_serve_under_load", "test_cluster", "test_other_runtimes", "test_docs", "test_distributed", "test_faults"),
    *("test_serve_faults", "test_tune", "test_serve_page", "test_reference_fidelity", "test_folder_runs"),
)
"""Files that take long, the longest first: begun at the end, one would keep one worker after the other has ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all else in its order."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def usual_runtime() -> Iterator[None]:
    """That of a user who asks for none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TENFOLD_RUNTIME", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def small_shapes() -> Iterator[None]:
    """`shapes` means fewer images, here and in `forks`; in a process that Python starts, all 6,000."""
    with pytest.MonkeyPatch.context() as patch:
        use_few_shapes(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def coarse_plots() -> Iterator[None]:
    """Files of plots have fewer pixels, here and in `forks`; in a process that Python starts, all."""
    with pytest.MonkeyPatch.context() as patch:
        use_coarse_plots(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def messages() -> None:
    """Messages appear on standard error, as the command shows them, also where tests call functions."""
    show_logs()


@pytest.fixture(scope="session", autouse=True)
def usual_signals() -> Iterator[None]:
    """Processes that tests begin get SIGHUP and SIGINT as usual, under nohup and in the background, too.

    Handlers are not inherited, ignoring is.
    """
    usual = {signal.SIGHUP: lambda *_: None, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.getsignal(number) for number in usual}
    for number, handler in usual.items():
        if before[number] is signal.SIG_IGN:
            signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own, shared by the tests of a file; SIGTERM's handler is put back."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(tmp_path_factory.mktemp("home")))
        yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def cifar10() -> Dataset:
    """Real CIFAR-10, fetched on first use. Where it cannot be had, the test fails with the reason."""
    if os.environ.get("TENFOLD_OFFLINE"):
        try:
            return tenfold.load("cifar10")
        except tenfold.TenfoldError as error:
            pytest.skip(f"TENFOLD_OFFLINE is set and {error}")
    return tenfold.load("cifar10")


@pytest.fixture(scope="session")
def command() -> Command:
    """Run `tenfold ARGUMENTS…` in a process of its own; keywords go to `subprocess.run`."""

    def run(*arguments: str | Path, **keywords: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "tenfold", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, timeout=600, **keywords)  # type: ignore[call-overload, no-any-return]

    return run


@pytest.fixture(scope="session")
def fork() -> Command:
    """As `command`, without the seconds of Python's and PyTorch's start: for commands that train or export."""
    from tests.support.forks import run_command

    return run_command


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set of 500 images, which all processes know while the test runs."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.setattr(registry, "_loaded", False)
    monkeypatch.setenv(registry.VARIABLE, str(process.ROOT / "tests" / "support" / "few_plugin.py"))
    return "few"


@pytest.fixture(scope="session")
def invoke() -> Invoke:
    """Run the command within this process: exit code, standard output, standard error."""
    return process.invoke


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file: `fast89` with a hundredth of its arithmetic, for `--data shapes`.

    What is tuned in `fast89` has values of its own here, so that no test depends on the tuning.
    """
    from tenfold.training.networks import WhitenedSpec
    from tenfold.training.recipe import Stage
    from tenfold.training.recipes import FAST89

    tiny = replace(
        FAST89,
        name="tiny",
        network=replace(WhitenedSpec(), widths=(8, 16, 16)),
        stages=(Stage(1.0, 0.24, 0.1), Stage(1.0, 0.1, 0.0)),
        batch_size=50,
        whiten_bias_epochs=0.85,
        low_res_fraction=0.45,
        prune_fraction=0.6,
        freeze_fraction=0.35,
        tta_fraction=0.25,
    )
    path = tmp_path_factory.mktemp("recipe") / "tiny.json"
    path.write_text(tiny.to_json())
    return path
