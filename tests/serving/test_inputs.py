"""What is found under what the user names: order, links, hidden files, patterns, standard input, hostile names."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from tenfold.errors import DataError, ImageError
from tenfold.serving import inputs
from tenfold.serving.inputs import find

PNG = b"\x89PNG\r\n\x1a\n" + bytes(30)


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with images (by name, or by content only) and what is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.JPG", "c/d.webp", "c/e/f.gif", "c/.hidden/g.png", ".h.png", "z[1].png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "scan").write_bytes(PNG)
    return tmp_path


def names(sources: Iterable[str], stdin: bytes | None = None) -> list[str]:
    return [found.name for found in find(sources, None if stdin is None else io.BytesIO(stdin))]


EVERYTHING = ["a.JPG", "b.png", "c/d.webp", "c/e/f.gif", "scan", "z[1].png"]


def test_a_folder_is_walked_sorted_without_what_is_hidden_or_no_image() -> None:
    assert names(["photos"]) == [f"photos/{name}" for name in EVERYTHING]


def test_what_is_named_is_taken_as_it_is_and_in_that_order() -> None:
    given = ["./photos/b.png", "photos/notes.txt", "absent.png", "photos/.h.png", "photos//a.JPG", "photos/c/.hidden"]
    assert names(given) == [*given[:5], "photos/c/.hidden/g.png"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("photos/*.png", ["photos/b.png", "photos/z[1].png"]),
        ("photos/?.png", ["photos/b.png"]),
        ("photos/[ab].*", ["photos/a.JPG", "photos/b.png"]),
        ("photos/.*.png", ["photos/.h.png"]),
        ("photos/c*", ["photos/c/d.webp", "photos/c/e/f.gif"]),
        ("*/*/d.webp", ["photos/c/d.webp"]),
        ("photos/**/*.gif", ["photos/c/e/f.gif"]),
        ("**/b.png", ["photos/b.png"]),
        ("photos/c/**", ["photos/c/d.webp", "photos/c/e/f.gif"]),
        ("photos/z[1].png", ["photos/z[1].png"]),
        ("photos/*.bmp", ["photos/*.bmp"]),
        ("absent/*", ["absent/*"]),
    ],
)
def test_patterns_are_expanded_where_the_shell_did_not(pattern: str, found: list[str]) -> None:
    assert names([pattern]) == found
    absolute = names([str(Path.cwd() / pattern)])
    assert absolute == [str(Path.cwd() / name) for name in found]


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_names_come_in_windows_and_none_is_lost(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """Of a million names only a window is held; as many as fit exactly is the edge."""
    monkeypatch.setattr(inputs, "WINDOW", window)
    assert names(["photos"]) == [f"photos/{name}" for name in EVERYTHING]


def test_links_lead_to_each_folder_once(tree: Path) -> None:
    """Without the set of visited folders it comes to no end within a minute."""
    (tree / "photos" / "c" / "loop").symlink_to("..")
    (tree / "photos" / "again").symlink_to("c")
    (tree / "photos" / "broken.png").symlink_to("nowhere")
    found = names(["photos"])
    assert len(found) == len(set(found)) == 7
    assert {Path(name).name for name in found} == {Path(name).name for name in EVERYTHING} | {"broken.png"}
    assert sum(".gif" in name for name in names(["**/*.gif"])) == 1


def test_a_folder_that_may_not_be_read_is_an_input_that_fails(tree: Path) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        (found,) = find(["photos"])
        assert found.name == "photos"
        with pytest.raises(ImageError, match="cannot be listed: Permission denied"):
            found.read()


def test_a_pipe_does_not_keep_us_waiting(tree: Path) -> None:
    os.mkfifo(tree / "photos" / "pipe")
    os.mkfifo(tree / "photos" / "pipe.png")
    assert [name for name in names(["photos"]) if "pipe" in name] == ["photos/pipe.png"]
    (found,) = find(["photos/pipe.png"])
    with pytest.raises(ImageError, match="not a file"):
        found.read()


def test_standard_input_holds_paths() -> None:
    assert names(["-"], b"photos/b.png\r\nabsent.png\n\nphotos/c") == [
        "photos/b.png",
        "absent.png",
        "photos/c/d.webp",
        "photos/c/e/f.gif",
    ]
    assert names(["-"], b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n") == list("abcdefghij")  # more lines than the first read
    assert names(["-"], b"") == names(["-"], b"\n\n") == []
    assert names(["-"], b"\xff.png\n") == ["\udcff.png"]
    assert names(["-"], b"BMW/1.png\nBMW/2.png\nBMW/3.png\n") == ["BMW/1.png", "BMW/2.png", "BMW/3.png"]


def test_standard_input_holds_one_image() -> None:
    (found,) = find(["-"], io.BytesIO(PNG + b"\nphotos/b.png\n"))
    assert found.name == "-" and found.read() == PNG + b"\nphotos/b.png\n"


LISTED = ["photos/b.png", "absent.png", "photos/c/d.webp", "photos/c/e/f.gif"]
"""What a list of photos/b.png, absent.png and photos/c stands for."""


@pytest.mark.parametrize(
    "content",
    [
        b"photos/b.png\0absent.png\0photos/c\0",
        b"photos/b.png\0absent.png\0photos/c",
        b"\xef\xbb\xbfphotos/b.png\0absent.png\0photos/c\0",
        b"\xef\xbb\xbfphotos/b.png\r\nabsent.png\r\n\r\nphotos/c\r\n",
        b"photos/b.png\n\xef\xbb\xbfabsent.png\n \t\nphotos/c",  # two lists, joined
        b"\xff\xfe" + "photos/b.png\r\nabsent.png\r\nphotos/c\r\n".encode("utf-16-le"),
        b"\xfe\xff" + "photos/b.png\nabsent.png\nphotos/c".encode("utf-16-be"),
        "photos/b.png\r\nabsent.png\r\nphotos/c\r\n".encode("utf-16-le"),  # cmd /u writes no mark
        b"\xff\xfe\0\0" + "photos/b.png\nabsent.png\nphotos/c".encode("utf-32-le"),
    ],
)
def test_lists_of_all_kinds_are_read(content: bytes) -> None:
    assert names(["-"], content) == LISTED


def test_paths_that_end_with_nul_may_hold_line_breaks() -> None:
    """Also where the first bytes that come show a line break only."""
    assert names(["-"], b"a\nb\0c\n\0\xff\0") == ["a\nb", "c\n", "\udcff"]
    long = b"a name of more than eighteen bytes\nand a second line"
    assert names(["-"], long + b"\0b\0") == [long.decode(), "b"]


@pytest.mark.timeout(20)
def test_a_path_comes_as_soon_as_it_is_written() -> None:
    """A pipe that stays open: the first path is answered before the second is there."""
    end, begin = os.pipe()
    with os.fdopen(end, "rb") as stream, os.fdopen(begin, "wb", buffering=0) as writer:
        writer.write(b"photos/some long name.png\0")
        found = find(["-"], stream)
        assert next(found).name == "photos/some long name.png"
        writer.write(b"b.png\0")
        assert next(found).name == "b.png"


def test_a_quoted_path_is_a_name_unless_there_is_no_such_file(tree: Path) -> None:
    (tree / '"quoted".png"').write_bytes(PNG)
    assert names(["-"], b'"quoted".png"\n') == ['"quoted".png"']
    (tree / '"quoted"').write_bytes(PNG)
    found = list(find(["-"], io.BytesIO(b'\'photos/b.png\'\n"quoted"\nphotos/b.png\n"\n')))
    assert [item.name for item in found] == ["'photos/b.png'", '"quoted"', "photos/b.png", '"']
    assert found[1].read() == PNG
    with pytest.raises(ImageError, match="no file has this name: write paths in a list without quotes"):
        found[0].read()


def test_a_list_that_is_not_what_its_mark_says_is_refused() -> None:
    with pytest.raises(DataError, match="begins as utf-16-le text, but is not: write the list as UTF-8"):
        names(["-"], b"\xff\xfea.jpeg\n")


@pytest.mark.parametrize("content", [b"PK\3\4\0\0\0", b"\0\0\0\x20ftypisom", b"photos/b.png\nphotos/c.png\nand\0"])
def test_files_of_other_kinds_are_no_lists(content: bytes) -> None:
    with pytest.raises(DataError, match="neither an image of a kind that is read here nor paths"):
        names(["-"], content + bytes(30))


@pytest.mark.parametrize("content", [b"%PDF-1.7\n\0\1\2", b"x" * 100_000, b"photos/b.png\n" + b"y" * 100_000])
def test_standard_input_that_is_neither_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="neither an image of a kind that is read here nor paths"):
        names(["-"], content)


def test_a_name_that_is_too_long_is_an_input_that_fails() -> None:
    """`Path.is_dir` raises for it, and all that came after it went unanswered."""
    long = "a" * 300 + ".png"
    assert names(["-"], f"{long}\nphotos/b.png\n".encode()) == names([long, "photos/b.png"]) == [long, "photos/b.png"]
    (found,) = find([long])
    with pytest.raises(ImageError):
        found.read()


def test_a_name_that_no_file_can_have_is_said() -> None:
    (found,) = find(["a\0b"])
    with pytest.raises(ImageError, match="no file has such a name"):
        found.read()
