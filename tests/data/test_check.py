"""`tenfold data check`: whatever is odd is named with its path, and the folder stays as it was."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tenfold import cli
from tenfold.data.check import Checked, check_folder, find_alike
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError
from tests.support.images import save

# What Pillow has to say about odd metadata is silenced by a filter that pytest takes away again.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")
SHAPES = make_shapes(0, 400, 1).train.images
Change = Callable[[Path], object]


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """A cache of its own for every test."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in which nothing is odd: two classes of 20 images, each drawn for itself."""
    for number, pixels in enumerate(SHAPES[:40]):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save(pixels, "PNG"))
    return tmp_path / "pictures"


def into_splits(root: Path) -> None:
    """Move a quarter of each class to `test`."""
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        folder = root / ("test" if number % 4 == 3 else "train") / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    for name in "ab":
        (root / name).rmdir()


def store(path: str, image: int = 0, kind: str = "PNG", size: int = 32, **options: Any) -> Change:
    """Write one of the drawn shapes (below 40: those that are in the folder) to a path below the root."""

    def change(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(save(Image.fromarray(SHAPES[image]).resize((size, size)), kind, **options))

    return change


def put(path: str, content: bytes) -> Change:
    return lambda root: (root / path).write_bytes(content)


def link(path: str, to: str) -> Change:
    return lambda root: (root / path).symlink_to(root / to)


def both(*changes: Change) -> Change:
    return lambda root: [change(root) for change in changes]


def many(count: int) -> Change:
    """More images, so that one bad one is less than a hundredth."""
    return both(*(store(f"{'ab'[number % 2]}/more {number}.png", 100 + number) for number in range(count)))


HUGE = save(SHAPES[0], "BMP")[:18] + (20_000).to_bytes(4, "little") * 2 + save(SHAPES[0], "BMP")[26:]
CUT = save(SHAPES[50], "PNG")[:500]

# change → the kind, severity, a path that must be named, and words of what is said
ODD: dict[str, tuple[Change, str, str, str, str]] = {
    "zero bytes": (both(many(80), put("a/x.png", b"")), "bad image", "skipped", "a/x.png", "it has zero bytes"),
    "truncated": (both(many(80), put("a/x.png", CUT)), "bad image", "skipped", "a/x.png", "cut short"),
    "text": (both(many(80), put("b/x.jpg", b"Dear")), "bad image", "skipped", "b/x.jpg", "not an image of a kind"),
    "huge": (both(many(80), put("b/x.bmp", HUGE)), "bad image", "skipped", "b/x.bmp", "pixels"),
    "too many bad": (
        both(put("b/x.png", b""), put("b/y.png", b"")),
        "too many bad images",
        "error",
        "b/x.png",
        "2 of 42 images cannot be read",
    ),
    "wrong ending": (
        store("a/x.jpg", 50),
        "ending",
        "warning",
        "a/x.jpg",
        "is a PNG file by its content: read all the",
    ),
    "no ending": (store("a/x", 50), "ending", "warning", "a/x", "is a PNG file by its content"),
    "other files": (put("a/notes.txt", b"milk"), "no image", "warning", "a/notes.txt", "is no image: left out"),
    "hidden": (store(".old/x.png", 50), "hidden folder", "warning", ".old", "is hidden: left out"),
    "outside": (store("x.png", 50), "outside", "warning", "x.png", "outside any class"),
    "empty class": (lambda root: (root / "c").mkdir(), "empty class", "error", "c", "holds no image: add images to it"),
    "case": (store("a/0.PNG", 50), "colliding names", "warning", "a/0.PNG", "are one name on other systems"),
    "class of another case": (store("A/x.png", 50), "colliding names", "warning", "A", "one name on other systems"),
    "Unicode form": (
        both(store("\u00e9/x.png", 50), store("e\u0301/x.png", 51)),
        "class names",
        "error",
        "e\u0301",
        "one name in two Unicode forms: merge the two",
    ),
    "loop": (link("a/loop", "."), "link", "warning", "a/loop", "is a link to a folder that is read already"),
    "small class": (store("c/x.png", 50), "small class", "warning", "c", "c has only 1 image: add some"),
    "imbalance": (store("c/x.png", 50), "imbalance", "warning", "c", "a has 20 images, c only 1"),
    "duplicates": (store("a/x.png", 0), "duplicates", "warning", "a/x.png", "the same image as a/x.png: keep one"),
    "two classes": (
        store("b/x.png", 0),
        "duplicates of two classes",
        "warning",
        "b/x.png",
        "a/0.png is the same image as b/x.png: decide which class it is",
    ),
    "JPEG of it": (store("a/x.jpg", 0, "JPEG", quality=92), "near duplicates", "warning", "a/x.jpg", "nearly the same"),
    "larger": (store("a/x.png", 0, size=64), "near duplicates", "warning", "a/x.png", "nearly the same image"),
    "GIF in another class": (
        store("b/x.gif", 0, "GIF"),
        "near duplicates of two classes",
        "warning",
        "b/x.gif",
        "decide which class it is",
    ),
    "leak": (
        both(into_splits, store("test/a/x.png", 0)),
        "leak",
        "warning",
        "test/a/x.png",
        "in another split: keep it in one split only",
    ),
    "near leak": (
        both(into_splits, store("test/a/x.webp", 0, "WEBP", quality=90)),
        "near leak",
        "warning",
        "test/a/x.webp",
        "in another split",
    ),
    "unknown class": (
        both(into_splits, store("test/c/x.png", 50)),
        "unknown class",
        "error",
        "test/c",
        "a class that train/ does not have",
    ),
    "stray folder": (
        both(into_splits, store("misc/x.png", 50)),
        "stray folder",
        "warning",
        "misc",
        "lies beside train/",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_named_with_its_path(name: str, root: Path) -> None:
    change, kind, severity, path, words = ODD[name]
    change(root)
    checked = check_folder(root)
    (issue,) = [issue for issue in checked.issues if issue.kind == kind]
    assert issue.severity == severity
    assert words in str(issue)
    assert path in issue.paths or path in issue.what
    assert checked.worst in ("error", severity)


def snapshot(root: Path) -> list[tuple[Path, int, str]]:
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return [(path, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]


def test_a_good_folder_has_no_issues_and_stays_as_it_was(root: Path) -> None:
    before = snapshot(root)
    assert check_folder(root) == Checked("pictures/", {"": {"a": 20, "b": 20}}, ())
    assert snapshot(root) == before


def test_one_class_alone_is_no_task(root: Path) -> None:
    shutil.rmtree(root / "b")
    (issue,) = check_folder(root).issues
    assert issue.severity == "error"
    assert "1 class folder instead of 2 to 1,000: make one subfolder for each class" in str(issue)
    shutil.rmtree(root / "a")
    assert check_folder(root).worst == "error"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_named(root: Path) -> None:
    (root / "a").chmod(0)
    try:
        assert "cannot be read (Permission denied)" in str(check_folder(root).issues[0])
    finally:
        (root / "a").chmod(0o755)


def test_the_near_are_found_among_thousands_and_no_others() -> None:
    """Against the plain comparison of every pair; some planted, others drawn as they come."""
    rng = np.random.default_rng(0)
    images = make_shapes(3, 300, 1).train.images
    planted = np.clip(
        images[:40] + rng.normal(0, 1, images[:40].shape) * np.linspace(1, 40, 40)[:, None, None, None], 0, 255
    )
    images = np.concatenate([images, planted.astype(np.uint8)])
    wide = images.astype(float)
    contrast = wide.std(axis=(1, 2)).mean(axis=1)
    expected = {
        (first, second)
        for first in range(len(images))
        for second in range(first + 1, len(images))
        if np.sqrt(((wide[first] - wide[second]) ** 2).mean()) <= 0.25 * contrast[first]
    }
    assert 5 < len(expected) < 40
    assert set(find_alike(images)) == expected


def test_thousands_of_equal_images_end(root: Path) -> None:
    """A flat white scan after the other: a number is said instead of millions of pairs."""
    for number in range(200):
        content = save(Image.new("L", (1 + number, 5), 255), "PNG")
        (root / "a" / f"white {number}.png").write_bytes(content)
    kinds = [issue.kind for issue in check_folder(root).issues]
    assert kinds.count("near duplicates") == 10_001


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tenfold", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().out

    return run


def test_exit_codes_and_json(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    """0 with nothing or warnings only, 8 where a file would be skipped, 3 where training is not possible."""
    code, out = check("check", root, "--json")
    assert code == 0
    assert json.loads(out) == {
        "folder": "pictures/",
        "trainable": True,
        "counts": {"": {"a": 20, "b": 20}},
        "issues": [],
    }
    store("a/x.png", 0)(root)
    assert check("check", root)[0] == 0
    many(80)(root)
    put("a/y.png", b"")(root)
    code, out = check("check", root, "--json")
    assert code == 8
    assert json.loads(out)["issues"][0] == {
        "kind": "bad image",
        "severity": "skipped",
        "what": "a/y.png: empty: it has zero bytes",
        "do": "mend or remove it",
        "paths": ["a/y.png"],
    }
    (root / "c").mkdir()
    code, out = check("check", root, "--json")
    assert code == 3 and json.loads(out)["trainable"] is False


def test_the_answer_for_people(root: Path, check: Callable[..., tuple[int, str]]) -> None:
    into_splits(root)
    for number in range(15):
        store(f"train/a/copy {number}.png", 200 + number)(root)
        store(f"train/b/copy {number}.png", 200 + number)(root)
    code, out = check("check", root)
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0 and lines[-1] == "can be trained on"
    assert lines[0].split() == ["class", "train", "test"]
    assert "warning: duplicates of two classes (15)" in lines
    assert sum("is the same image as" in line for line in lines) == 10
    assert "  … and 5 more: --json lists all" in lines


@pytest.mark.train
def test_no_name_commands_the_terminal(
    root: Path, check: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without escapes, the names went there as they are."""
    said = StringIO()
    monkeypatch.setattr("tenfold.console.stderr", lambda: Console(file=said))
    folder = next(path for path in sorted(root.iterdir()) if path.is_dir()).rename(root / "\x1b]0;mine\x07")
    (folder / "bad\x1b[2J.png").write_bytes(b"")
    code, out = check("check", root)
    assert code == 8 and r"\x1b[2J" in out and r"\x1b]0;mine\x07" in out and "\x1b" not in out
    (folder / "bad\x1b[2J.png").unlink()
    code, out = check("show", root, "--out", tmp_path / "x.png")
    assert code == 0 and r"\x1b]0;mine\x07" in out and "\x1b" not in out
    assert check("show", tmp_path / "\x1b[2J" / "no")[0] == 3
    assert r"\x1b[2J" in said.getvalue() and "\x1b" not in said.getvalue()


def test_no_folder_to_check(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder that can be read"):
        check_folder(tmp_path / "nowhere")


@pytest.mark.train
def test_show_and_remove_take_folders(
    root: Path, check: Callable[..., tuple[int, str]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    code, out = check("show", "pictures/", "--size", "16", "--json")
    answer = json.loads(out)
    assert (code, answer["path"], answer["train"], answer["test"]) == (
        0,
        "pictures.png",
        {"a": 16, "b": 16},
        {"a": 4, "b": 4},
    )
    assert Path("pictures.png").is_file()
    assert len(list((home / "data" / "folders").iterdir())) == 1
    assert check("delete", "pictures")[0] == 0
    assert list((home / "data" / "folders").iterdir()) == []
    assert check("delete", "pictures")[1] == "pictures is not in the cache\n"
    assert len(list(root.rglob("*.png"))) == 40
