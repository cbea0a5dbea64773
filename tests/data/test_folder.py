"""Folders of images: what counts as a class, which images are tested on, what is skipped, refused and kept."""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold import data
from tenfold.data.folder import load_folder
from tenfold.data.image import Decoded, decode_measured, read_file
from tenfold.data.image_cache import read_images
from tenfold.data.listing import list_folder, natural
from tenfold.data.resize import OLD_RESIZES
from tenfold.errors import DataError, ImageError, UsageError
from tenfold.files import sha256
from tests.support.images import PIXELS, oriented, png, save

# What Pillow has to say about odd metadata is silenced by a filter that pytest takes away again.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")
Make = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """A cache of its own for every test."""


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a folder of images: a keyword or item for each subfolder gives how many different ones it holds."""

    def run(counts: dict[str, int], root: str = "pictures") -> Path:
        rng = np.random.default_rng(0)
        for name, count in counts.items():
            folder = tmp_path / root / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_bytes(save(rng.integers(0, 256, (8, 8, 3), np.uint8), "PNG"))
        return tmp_path / root

    return run


def kinds(root: Path) -> list[tuple[str, str]]:
    return sorted((issue.kind, issue.severity) for issue in list_folder(root).issues)


def names(split: data.Split) -> list[str]:
    assert split.names is not None
    return sorted(split.names.tolist())


# --- classes and splits -----------------------------------------------------------------------------------------------


def test_classes_are_sorted_as_people_sort(make: Make) -> None:
    root = make({"class 10": 1, "class 2": 1, "Apple": 1, "banana": 2, "42": 1, "7": 1})
    assert list_folder(root).classes == ("7", "42", "Apple", "banana", "class 2", "class 10")


def test_natural_order_takes_numbers_of_any_length() -> None:
    """5,000 digits were a traceback."""
    names = ["a1" + "0" * 5000, "a10", "a٣", "a" + "9" * 5000, "a010", "a2"]
    assert sorted(names, key=natural) == ["a2", "a٣", "a010", "a10", "a" + "9" * 5000, "a1" + "0" * 5000]


def test_natural_order_is_total_and_takes_any_name() -> None:
    strange = ["a", "A", "a1", "a01", "٣", "²", "1" * 200, "", "é", "e\u0301", "🐈"]
    backwards = list(reversed(strange))
    assert sorted(strange, key=natural) == sorted(backwards, key=natural)


def test_a_fifth_of_each_class_is_drawn_for_testing(make: Make) -> None:
    root = make({"a": 50, "b": 20, "c": 3, "d": 1})
    dataset = load_folder(root)
    assert np.bincount(dataset.test.labels, minlength=4).tolist() == [10, 4, 1, 0]
    assert np.bincount(dataset.train.labels, minlength=4).tolist() == [40, 16, 2, 1]
    assert not set(names(dataset.train)) & set(names(dataset.test))
    assert (dataset.name, dataset.classes, dataset.val_size) == ("pictures/", ("a", "b", "c", "d"), 0)


def test_pixels_and_labels_belong_to_their_names(make: Make) -> None:
    root = make({"a": 10, "b": 10})
    dataset = load_folder(root, 8)
    for part in (dataset.train, dataset.test):
        assert part.names is not None
        for pixels, label, name in zip(part.images, part.labels, part.names, strict=True):
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(root / name)))
            assert dataset.classes[label] == Path(name).parent.name


def test_the_draw_follows_seed_and_content_only(make: Make, tmp_path: Path) -> None:
    """Not names, not order, not what else is there; another seed draws others."""
    root = make({"a": 50, "b": 50})
    first = load_folder(root)
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert names(load_folder(moved).test) == names(first.test)
    assert names(load_folder(root, seed=1).test) != names(first.test)
    (root / "a" / "new.png").write_bytes(save(PIXELS, "PNG"))
    assert len(set(names(load_folder(root).test)) ^ set(names(first.test))) <= 2


def test_the_training_order_mixes_the_classes(make: Make) -> None:
    """So that the last N are as good a validation set as any."""
    labels = load_folder(make({"a": 50, "b": 50})).train.labels.astype(int)
    assert (np.diff(labels) != 0).mean() > 0.3


def test_copies_of_an_image_stay_together(make: Make) -> None:
    """Without drawing by content: copies of a test image were trained on."""
    root = make({"a": 30, "b": 30})
    for number in range(30):
        shutil.copy(root / "a" / f"{number}.png", root / "a" / f"copy of {number}.png")
    dataset = load_folder(root)
    tested = {Path(name).name.removeprefix("copy of ") for name in names(dataset.test) if name[0] == "a"}
    trained = {Path(name).name.removeprefix("copy of ") for name in names(dataset.train) if name[0] == "a"}
    assert tested and not tested & trained


def test_splits_that_are_there_are_kept(make: Make) -> None:
    root = make({"train/a": 4, "train/b": 5, "Validation/a": 1, "Validation/b": 2, "test/a": 3})
    dataset = load_folder(root)
    assert Counter(name.split("/")[0] for name in names(dataset.train)) == {"train": 9, "Validation": 3}
    assert dataset.val_size == 3
    assert dataset.train.names is not None
    assert {name.split("/")[0] for name in dataset.train.names[-3:]} == {"Validation"}
    assert names(dataset.test) == ["test/a/0.png", "test/a/1.png", "test/a/2.png"]


def test_without_test_images_the_validation_images_are_scored_on(make: Make) -> None:
    dataset = load_folder(make({"train/a": 4, "train/b": 5, "val/a": 1, "val/b": 2}))
    assert {name.split("/")[0] for name in names(dataset.test)} == {"val"}
    assert (len(dataset.train), dataset.val_size) == (9, 0)


def test_train_alone_is_drawn_from(make: Make) -> None:
    dataset = load_folder(make({"train/a": 10, "train/b": 5}))
    assert np.bincount(dataset.test.labels).tolist() == [2, 1]


def test_train_may_be_a_class_too(make: Make) -> None:
    assert list_folder(make({"bus": 1, "train": 1, "test": 1})).classes == ("bus", "test", "train")


def test_a_folder_beside_train_is_no_class(make: Make) -> None:
    root = make({"train/a": 2, "train/b": 2, "drafts": 1})
    assert list_folder(root).classes == ("a", "b")
    assert kinds(root) == [("stray folder", "warning")]


def test_images_in_folders_of_folders_belong_to_the_class(make: Make) -> None:
    assert len(list_folder(make({"a/monday": 2, "a/tuesday": 1, "b": 1})).files) == 4


# --- what is odd ------------------------------------------------------------------------------------------------------


def test_hidden_things_are_left_out(make: Make) -> None:
    root = make({"a": 1, "b": 1, ".git": 1, "__MACOSX": 1, "a/.thumbs": 1})
    (root / "a" / "._0.png").write_bytes(b"what macOS leaves")
    (root / "b" / "Thumbs.db").write_bytes(b"what Windows leaves")
    assert [file.name for file in list_folder(root).files] == ["a/0.png", "b/0.png"]
    assert kinds(root) == [("hidden folder", "warning")] * 3


def test_symlink_loop_is_read_once(make: Make) -> None:
    """Without the set of folders seen: it went round and round for minutes."""
    root = make({"a": 2, "b": 2})
    (root / "a" / "again").symlink_to(root)
    (root / "b" / "self").symlink_to(root / "b")
    (root / "c").symlink_to(root / "a")
    assert [file.name for file in list_folder(root).files] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert kinds(root) == [("link", "warning")] * 3


def test_links_to_elsewhere_are_followed(make: Make, tmp_path: Path) -> None:
    root, other = make({"a": 2}), make({"x": 3}, "other")
    (root / "b").symlink_to(other / "x")
    assert Counter(load_folder(root).train.labels.tolist()) == {0: 1, 1: 2}


def test_names_in_two_unicode_forms(make: Make) -> None:
    """Composed and decomposed é are one class where they lie apart, and an error where they lie side by side."""
    root = make({"train/caf\u00e9": 2, "train/tea": 2, "test/cafe\u0301": 1})
    assert names(load_folder(root).test) == ["test/cafe\u0301/0.png"]
    beside = make({"caf\u00e9": 2, "cafe\u0301": 2, "tea": 2}, "beside")
    assert ("class names", "error") in kinds(beside)
    with pytest.raises(DataError, match="one name in two Unicode forms: merge the two"):
        load_folder(beside)


def test_names_equal_but_for_case_are_noted(make: Make) -> None:
    """They are two classes here (letters may be), but one folder on other systems."""
    root = make({"a": 2, "A": 2})
    (root / "a" / "1.PNG").write_bytes(save(PIXELS, "PNG"))
    assert list_folder(root).classes == ("A", "a")
    assert kinds(root) == [("colliding names", "warning")] * 2


def test_a_name_that_is_no_text_is_refused(make: Make) -> None:
    root = make({"a": 2})
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).mkdir()
    with pytest.raises(DataError, match=r"the name of \\xff is no text in UTF-8"):
        load_folder(root)


def test_a_file_name_that_is_no_text_is_read(make: Make) -> None:
    root = make({"a": 5, "b": 5})
    (root / "a" / "0.png").rename(os.fsdecode(os.fsencode(root) + b"/a/\xff.png"))
    dataset = load_folder(root)
    assert "a/\\xff.png" in names(dataset.train) + names(dataset.test)


REFUSED: dict[str, tuple[dict[str, int], str]] = {
    "no class": ({}, "0 class folders instead of 2 to 1,000"),
    "one class": ({"a": 5}, "1 class folder instead of 2 to 1,000"),
    "empty class": ({"a": 5, "b": 5, "c": 0}, "the class folder c holds no image: add images to it, or remove it"),
    "empty class of a split": ({"train/a": 5, "train/b": 0, "test/b": 1}, "the class folder b holds no image"),
    "class to test only": ({"train/a": 2, "train/b": 2, "test/c": 1}, "test/c is a class that train/ does not have"),
    "no train": ({"val/a": 2, "test/a": 2}, "test and val hold folders, but there is no train/"),
    "two of a split": ({"train/a": 2, "train/b": 2, "val/a": 1, "valid/a": 1}, "two are the same split"),
    "nothing to test on": ({"a": 1, "b": 1}, "no class has two different images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_cannot_be_trained_on(name: str, make: Make, tmp_path: Path) -> None:
    counts, why = REFUSED[name]
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match=why):
        load_folder(make(counts))


def test_a_thousand_classes(make: Make) -> None:
    root = make({str(number): 2 for number in range(1_000)})
    dataset = load_folder(root, 8)
    assert dataset.classes == tuple(map(str, range(1_000)))
    assert dataset.test.labels.tolist().count(999) == 1
    (root / "1000").mkdir()
    with pytest.raises(DataError, match="1,001 class folders instead of 2 to 1,000"):
        load_folder(root, 8)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder that can be read"):
        data.load(f"{tmp_path}/nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file is not a folder"):
        data.load(f"{tmp_path}/file")


# --- bad files --------------------------------------------------------------------------------------------------------


def test_at_most_a_hundredth_may_be_bad(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    root = make({"a": 100, "b": 100})
    for number, content in enumerate([b"", b"text"]):
        (root / "a" / f"{number}.png").write_bytes(content)
    dataset = load_folder(root, 8)
    assert len(dataset.train) + len(dataset.test) == 198
    said = capsys.readouterr().err
    assert "skipped a/0.png: empty: it has zero bytes" in said
    assert "skipped a/1.png: not an image of a kind" in said
    (root / "b" / "7.png").write_bytes((root / "b" / "7.png").read_bytes()[:60])
    with pytest.raises(
        DataError, match=r"3 of 200 images cannot be read, and --skip-bad 1% allows 2 \(a/0.png: .*b/7.png: a PNG"
    ):
        load_folder(root, 8)


def test_files_that_claim_to_be_no_image_are_left_out(make: Make) -> None:
    root = make({"a": 5, "b": 5})
    (root / "a" / "notes.txt").write_text("remember the milk")
    (root / "a" / "labels.csv").write_text("")
    (root / "a" / "picture").write_bytes(save(PIXELS, "PNG"))  # an image all the same
    dataset = load_folder(root)
    assert sorted(Counter([*dataset.train.labels, *dataset.test.labels]).values()) == [5, 6]


@pytest.mark.parametrize("name", ["photo.heic", "drawing.svg", "photo.JPG", "mp4.jpg"])
def test_pictures_of_other_kinds_count_as_bad(name: str, make: Make) -> None:
    """A user who put them there would miss them."""
    root = make({"a": 5, "b": 5})
    (root / "a" / name).write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match=f"a/{name}: not an image of a kind that is read here"):
        load_folder(root, skip_bad="0")


def test_a_dangling_link_is_a_bad_image(make: Make) -> None:
    root = make({"a": 5, "b": 5})
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"a/gone.png: cannot be read: No such file"):
        load_folder(root, skip_bad="0")


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_every_mode_and_shape_in_one_folder(make: Make) -> None:
    """A square of one colour is that colour however it is stored; the expected pixels are worked out by hand."""
    root = make({"a": 0, "b": 2})
    red = np.full((9, 9, 3), (255, 0, 0), np.uint8)
    files = {
        "palette.png": save(Image.fromarray(red).quantize(2), "PNG"),
        "rgba.png": save(Image.new("RGBA", (30, 9), (255, 0, 0, 255)), "PNG"),
        "rotated.jpg": oriented(6, "JPEG", red, quality=100, subsampling=0),
        "cmyk.jpg": save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100),
        "deep.png": png(1, 16, 2, [b"\xff\xff\0\0\0\0"]),
        "animated.gif": save(
            Image.fromarray(red), "GIF", save_all=True, append_images=[Image.new("RGB", (9, 9), "blue")]
        ),
    }
    for name, content in files.items():
        (root / "a" / name).write_bytes(content)
    for resize in ("stretch", "center_crop"):
        dataset = load_folder(root, 16, resize)
        for part in (dataset.train, dataset.test):
            pixels = part.images[part.labels == 0].astype(int)
            assert pixels.shape[1:] == (16, 16, 3)
            assert np.abs(pixels - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(("old", "name"), OLD_RESIZES.items())
def test_the_old_name_of_a_mode_means_the_same(make: Make, old: str, name: str) -> None:
    root = make({"a": 5, "b": 5})
    (root / "a" / "wide.png").write_bytes(save(np.repeat(PIXELS, 3, axis=1), "PNG"))
    first, second = (data.load(str(root), size=16, resize=mode) for mode in (old, name))
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert first.origin and first.origin == second.origin and first.origin.resize == name


def test_size_and_resize_are_remembered(make: Make) -> None:
    origin = load_folder(make({"a": 5, "b": 5}), 24, "pad").origin
    assert origin is not None and (origin.size, origin.resize) == (24, "pad")
    with pytest.raises(UsageError, match="no resize mode is named 'zoom': choose stretch, center_crop, pad"):
        load_folder(make({"a": 5, "b": 5}, "other"), resize="zoom")
    with pytest.raises(UsageError, match="only those of a folder are resized"):
        data.load("shapes", size=64)


# --- the cache --------------------------------------------------------------------------------------------------------


def cached(home: Path) -> list[Path]:
    return sorted((home / "data" / "folders").iterdir())


def test_what_was_decoded_is_kept(make: Make, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make({"a": 20, "b": 20})
    first = load_folder(root)
    monkeypatch.setattr("tenfold.data.image_cache.decode_measured", None)  # not needed any more
    again = load_folder(root)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    assert first.origin == again.origin
    assert len(cached(home)) == 1


def test_a_changed_folder_is_read_again(make: Make, home: Path) -> None:
    """A file of the same length at the same place; what was kept before is removed."""
    root = make({"a": 20, "b": 20})
    first = load_folder(root)
    file = root / "a" / "3.png"
    content = save(np.asarray(Image.open(file))[::-1].copy(), "PNG")
    file.write_bytes(content)
    again = load_folder(root)
    assert first.origin is not None and again.origin is not None
    assert first.origin.sha256 != again.origin.sha256
    assert len(cached(home)) == 1
    load_folder(root, 16)
    assert len(cached(home)) == 2


def test_two_processes_that_read_one_folder(make: Make, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is ready first, with the same result, which is kept."""
    listing = list_folder(make({"a": 5, "b": 5}))
    others: list[np.ndarray] = []

    def decode_too(*words: object, **options: object) -> Decoded:
        if not others:
            others.append(np.empty(0))
            others[0] = read_images(listing, 8, "stretch").images
        return decode_measured(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("tenfold.data.image_cache.decode_measured", decode_too)
    np.testing.assert_array_equal(read_images(listing, 8, "stretch").images, others[0])
    assert len(cached(home)) == 1


def test_a_cache_that_another_process_replaces_is_read_again(
    make: Make, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file changes, and another process reads the folder while this one opens what was kept before.

    Nothing is damaged, and what was kept of other folders stays.
    """
    other, root = make({"a": 5, "b": 5}, "other"), make({"a": 5, "b": 5})
    read_images(list_folder(other), 8, "stretch")
    before = list_folder(root)
    first = read_images(before, 8, "stretch").images.copy()
    change = iter([True])

    def digest(path: Path) -> str:
        if next(change, False):
            (root / "a" / "5.png").write_bytes(save(PIXELS, "PNG"))
            assert len(read_images(list_folder(root), 8, "stretch").entries) == 11
        return sha256(path)

    monkeypatch.setattr("tenfold.data.image_cache.sha256", digest)
    np.testing.assert_array_equal(read_images(before, 8, "stretch").images, first)
    assert "damaged" not in capsys.readouterr().err
    read_images(list_folder(root), 8, "stretch")
    assert len(cached(home)) == 2


@pytest.mark.parametrize(("old", "name"), OLD_RESIZES.items())
def test_what_was_kept_under_an_old_name_of_the_mode_is_found(
    make: Make, home: Path, monkeypatch: pytest.MonkeyPatch, old: str, name: str
) -> None:
    """And it is removed when the folder changes: nothing else would ever remove it."""
    root = make({"a": 5, "b": 5})
    first = load_folder(root, 16, old)
    (path,) = cached(home)
    path.rename(path.with_name(path.name.replace(f"-{name}-", f"-{old}-")))
    with monkeypatch.context() as patch:
        patch.setattr("tenfold.data.image_cache.decode_measured", None)
        np.testing.assert_array_equal(load_folder(root, 16, name).train.images, first.train.images)
    (root / "a" / "5.png").write_bytes(save(PIXELS, "PNG"))
    load_folder(root, 16, name)
    assert [f"-{name}-" in path.name for path in cached(home)] == [True]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_file_that_could_not_be_read_is_read_when_it_can(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size and time stay the same; without asking for its permissions, it stayed bad for ever."""
    root = make({"a": 5, "b": 5})
    locked, access = root / "a" / "0.png", os.access

    def refuse(path: Path) -> bytes:
        if path == locked:
            raise ImageError("cannot be read: Permission denied")
        return read_file(path)

    with monkeypatch.context() as patch:
        patch.setattr("tenfold.data.image_cache.read_file", refuse)
        patch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))
        assert len(read_images(list_folder(root), 8, "stretch").good()) == 9
    assert len(read_images(list_folder(root), 8, "stretch").good()) == 10


@pytest.mark.parametrize("name", ["images.npy", "index.json"])
@pytest.mark.parametrize("harm", [damage, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_made_anew(
    name: str, harm: Callable[[Path], None], make: Make, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the checksum: a flipped pixel was trained on."""
    root = make({"a": 5, "b": 5})
    first = load_folder(root)
    harm(cached(home)[0] / name)
    again = load_folder(root)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    if not (name == "index.json" and harm is damage):  # its last byte is but a newline
        assert "is damaged" in capsys.readouterr().err


def test_a_failed_read_leaves_nothing(make: Make, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make({"a": 5, "b": 5})

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tenfold.data.image_cache.decode_measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_images(list_folder(root), 32, "stretch")
    assert cached(home) == []


def test_what_a_killed_process_left_goes_after_a_day(make: Make, home: Path) -> None:
    root = make({"a": 5, "b": 5})
    load_folder(root)
    place = cached(home)[0].parent
    for name, age in ((".old.partial", 25 * 3600), (".young.partial", 3600)):
        (place / name).mkdir()
        os.utime(place / name, (time.time() - age,) * 2)
    load_folder(make({"c": 5, "d": 5}))
    assert [path.name for path in place.glob(".*")] == [".young.partial"]


def test_classes_of_a_larger_set() -> None:
    split = data.Split(np.zeros((2, 1, 1, 3), np.uint8), np.array([0, 1], np.uint16))
    dataset = data.Dataset("x", ("b", "c"), split, split)
    wider = dataset.with_classes(("a", "b", "c"))
    assert wider.classes == ("a", "b", "c") and wider.test.labels.tolist() == [1, 2]
    assert replace(dataset, classes=("b", "z")).with_classes(("a", "b")).classes == ("b", "z")


@pytest.mark.slow
def test_names_that_are_no_text_go_through_a_pipe(make: Make, command: Command) -> None:
    """A class and a file, written by a terminal's encoding that has ASCII only: escaped, and no traceback."""
    root = make({"a": 2})
    bad = Path(os.fsdecode(os.fsencode(root) + b"/\xff"))
    bad.mkdir()
    shutil.copy(root / "a" / "0.png", os.fsdecode(os.fsencode(bad) + b"/\xfe.png"))
    settings = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    checked = command("data", "check", root, env=settings)
    assert checked.returncode == 3 and "the name of \\xff is no text in UTF-8" in checked.stdout
    predicted = command("predict", root, "--json", env=settings)
    paths = [json.loads(line)["path"] for line in predicted.stdout.splitlines()]
    assert predicted.returncode == 0 and os.fsencode(paths[-1]).endswith(b"/\xff/\xfe.png")
