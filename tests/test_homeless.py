"""Users without a home directory, or without the right to write there, as in many containers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold import data
from tenfold.errors import StorageError

Nameless = Callable[..., subprocess.CompletedProcess[str]]

# The system's answer for a user id that nobody has, whoever runs these tests.
CHILD = """
import pwd

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
from tenfold.cli import main
main()
"""
ELSEWHERE = "TENFOLD_HOME=FOLDER puts the cache elsewhere"
HOMES = {
    None: "tenfold: there is no home directory for the cache: set TENFOLD_HOME to a folder that can be written",
    "/dev/null": f"tenfold: /dev/null/.cache/tenfold cannot be a folder (Not a directory); {ELSEWHERE}",
    "/proc/none": f"tenfold: /proc/none/.cache/tenfold cannot be a folder (No such file or directory); {ELSEWHERE}",
}


@pytest.fixture(params=HOMES, ids=str)
def home(request: pytest.FixtureRequest) -> str | None:
    """What HOME is, None where it is not set."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def nameless(home: str | None, tmp_path: Path) -> Nameless:
    """Run `tenfold ARGUMENTS…` as a user without a name, in an empty folder."""
    hidden = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "TENFOLD_HOME", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith("XDG_")}
    environment = kept | ({"HOME": home} if home else {})

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", CHILD, *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment | variables)

    return run


def draw(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for grey in range(10):
            pixels = np.full((8, 8, 3), 20 * grey + len(list(folder.iterdir())), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{grey}.png")
    return folder


@pytest.mark.slow
def test_what_needs_the_cache_says_how_to_put_it_elsewhere(
    nameless: Nameless, home: str | None, tmp_path: Path
) -> None:
    """It was a traceback, or did not name the variable."""
    for words in (("data", "download"), ("data", "check", draw(tmp_path / "pets"))):
        answer = nameless(*words)
        assert (answer.returncode, answer.stdout, answer.stderr) == (7, "", f"{HOMES[home]}\n")


@pytest.mark.slow
def test_with_tenfold_home_it_works(nameless: Nameless, tmp_path: Path) -> None:
    answer = nameless("data", "check", draw(tmp_path / "pets"), TENFOLD_HOME=str(tmp_path / "cache"))
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "cache" / "data" / "folders").is_dir()


@pytest.mark.slow
def test_what_needs_no_cache_works_without_a_word(few: str, nameless: Nameless, tmp_path: Path) -> None:
    """Matplotlib's lines on its temporary folder came before each plot."""
    drawn = nameless("data", "show", few, "--out", tmp_path / "shapes.png")
    assert (drawn.returncode, drawn.stderr) == (0, "") and (tmp_path / "shapes.png").is_file()
    answered = nameless("predict", tmp_path / "shapes.png")
    assert (answered.returncode, answered.stderr) == (0, "") and "shapes.png" in answered.stdout


def test_a_home_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "locked" / "home"))
    monkeypatch.setattr(Path, "mkdir", refuse)  # which root, by whom these tests may be run, is never refused
    with pytest.raises(StorageError, match=rf"cannot write .*locked/home: Permission denied.*; {ELSEWHERE}"):
        data.get()
