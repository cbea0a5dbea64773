"""What the tests of data share: a home of their own and a stand-in for the npm client."""

import os
from pathlib import Path

import pytest

from tests.support.process import FakeNpm


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TENFOLD_HOME, with the network allowed."""
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TENFOLD_OFFLINE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNpm:
    """Put a client called npm first on the PATH that runs a line of shell; $4 is where its archive should go."""

    def install(line: str) -> None:
        script = tmp_path / "bin" / "npm"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")

    return install
