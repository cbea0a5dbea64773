"""Corrections of labels: what they change in a data set, how images are found, and what is refused, with its line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tenfold.data.corrections import COLUMNS, apply_corrections, parse_corrections, read_corrections
from tenfold.data.dataset import AppliedCorrections, Dataset, Origin, Split
from tenfold.errors import DataError, UsageError
from tenfold.training.fingerprint import fingerprint

HEAD = ",".join(COLUMNS)
CLASSES = ("ant", "bee", "cat")


def images(count: int, first: int) -> np.ndarray:
    return np.full((count, 4, 4, 3), 1, np.uint8) * (first + np.arange(count, dtype=np.uint8))[:, None, None, None]


def numbered() -> Dataset:
    """Twelve training and six test images, of each class in turn."""
    labels = np.arange(18).astype(np.uint8) % 3
    return Dataset("mine", CLASSES, Split(images(12, 0), labels[:12]), Split(images(6, 12), labels[12:]))


def foldered(val_size: int = 0) -> Dataset:
    """The same, of files called a0.png … with contents called da0 …."""
    data = numbered()
    parts = {
        name: replace(
            part,
            names=np.array([f"{letter}{row}.png" for row in range(len(part))], object),
            digests=np.array([f"d{letter}{row}" for row in range(len(part))], object),
        )
        for name, part, letter in (("train", data.train, "a"), ("test", data.test, "b"))
    }
    return replace(data, **parts, val_size=val_size, origin=Origin("/photos", "0" * 64, 4, "stretch"))


def apply(dataset: Dataset, *lines: str, head: str = HEAD) -> Dataset:
    return apply_corrections(dataset, parse_corrections("\n".join((head, *lines)).encode()))


def counts(dataset: Dataset) -> AppliedCorrections:
    assert dataset.corrections is not None
    return replace(dataset.corrections, content=b"", sha256="")


def test_labels_change_and_images_go() -> None:
    before = numbered()
    after = apply(
        before, ",,train,0,ant,relabel,bee", ",,test,1,bee,drop,", ",,train,4,,drop,", ",,test,0,ant,relabel,cat",
        ",,test,2,cat,keep,", ",,test,3,ant,unsure,", ",,train,1,bee,unsure,",
    )  # fmt: skip
    assert after.train.labels.tolist() == [1, 1, 2, 0, 2, 0, 1, 2, 0, 1, 2]
    assert after.test.labels.tolist() == [2, 2, 0, 1, 2]
    assert after.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert after.test.images[:, 0, 0, 0].tolist() == [12, 14, 15, 16, 17]
    assert after.test.numbers is not None and after.test.numbers.tolist() == [0, 2, 3, 4, 5]
    assert counts(after) == AppliedCorrections(b"", 1, 1, 1, 1, kept=1, unsure=2)
    assert before.train.labels[0] == 0, "what was loaded stays as it is"
    assert fingerprint(after) != fingerprint(before)


def test_keep_and_unsure_change_nothing() -> None:
    before = foldered()
    after = apply(before, "a0.png,da0,train,,ant,keep,", "gone.png,,test,,ant,unsure,")
    np.testing.assert_array_equal(after.train.labels, before.train.labels)
    assert after.origin == before.origin and after.train.numbers is None
    assert counts(after) == AppliedCorrections(b"", kept=1, unsure=1)


def test_files_are_found_by_path_or_content() -> None:
    """a1 by its path alone; b2 under a new name; what the split says does not matter."""
    after = apply(foldered(), "a1.png,,val,,bee,relabel,ant", "old name.png,db2,train,,cat,drop,")
    assert after.train.labels[1] == 0
    assert after.test.names is not None and "b2.png" not in after.test.names
    assert after.origin is not None and after.origin.uncorrected_sha256 == "0" * 64 != after.origin.sha256


@pytest.mark.parametrize("path", ["cats/a.png", "./cats/a.png", "cats\\a.png", ".\\cats\\a.png", "/photos/cats/a.png"])
def test_paths_are_read_as_in_label_files(path: str) -> None:
    """Backslashes and ./ were "not among the images"."""
    data = foldered()
    names = data.train.names
    assert names is not None
    data = replace(data, train=replace(data.train, names=np.array(["cats/a.png", *names[1:]], object)))
    assert apply(data, f"{path},,,,ant,relabel,cat").train.labels[0] == 2


def test_a_name_with_a_backslash_is_a_name() -> None:
    data = foldered()
    names = np.array(["x\\a.png", "x/a.png", *(f"{row}.png" for row in range(10))], object)
    data = replace(data, train=replace(data.train, names=names))
    assert apply(data, "x\\a.png,,,,ant,relabel,cat").train.labels[:2].tolist() == [2, 1]


def test_the_digest_depends_on_what_is_changed_only() -> None:
    one = apply(foldered(), "a1.png,,train,,bee,relabel,ant").origin
    again = apply(foldered(), "a1.png,da1,,,,relabel,ant", "b0.png,,,,,keep,").origin
    other = apply(foldered(), "a1.png,,train,,bee,relabel,cat").origin
    assert one is not None and again is not None and other is not None
    assert one.sha256 == again.sha256 != other.sha256


def test_validation_images_that_go_leave_the_others_in_their_place() -> None:
    after = apply(foldered(val_size=4), "a11.png,,,,,drop,", "a9.png,,,,,drop,", "a1.png,,,,,drop,")
    assert after.val_size == 2 and after.train.names is not None
    assert after.train.names[-2:].tolist() == ["a8.png", "a10.png"]


def test_a_line_twice_is_one() -> None:
    after = apply(foldered(), "a1.png,,,,,drop,", "a1.png,,,,,drop,", "a0.png,,,,ant,relabel,ant")
    assert counts(after) == AppliedCorrections(b"", dropped_train=1)


def test_files_that_a_spreadsheet_saved(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes("action;path;label\r\n Relabel ;a1.png;cat\r\n".encode("utf-16"))
    assert apply_corrections(foldered(), read_corrections(path)).train.labels[1] == 2


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ("a1.png,,,,,remove,",),
            "corrections.csv, line 2: the action is 'remove': write keep, relabel, drop or unsure",
        ),
        (("a0.png,,,,,keep,", "a1.png,,,,,relabel,"), "line 3: relabel without a label"),
        (("a1.png,,,,bee,relabel,ants",), "line 2: 'ants' is no class; did you mean ant?: choose one of ant, bee, cat"),
        (("no.png,,,,,drop,",), "line 2: no.png is not among the images of mine"),
        (("a1.png,dx,,,,drop,",), "line 2: a1.png is another image now: look again, or remove the line"),
        (("a1.png,,,,cat,relabel,ant",), "line 2: the image is labelled 'bee' now, not 'cat' as when it was looked at"),
        (("a1.png,,,,bee,relabel,ant", "a1.png,,,,bee,drop,"), "lines 2 and 3: two corrections of one image"),
        ((",,train,1,bee,drop,",), "line 2: it has no path: it is about other data than mine"),
        ((",,train,,bee,drop,",), "line 2: neither a path nor an index"),
        (("a1.png,,train",), "line 2: 3 cells instead of 7"),
        (("a1.png,,,,,drop,", "x,,,,,drop,", "y,,,,,drop,"), "line 3: x is not among the images of mine"),
        (tuple(f"a{row}.png,,,,,drop," for row in (0, 3, 6, 9)), "leaves no training image of class 'ant': keep some"),
        (tuple(f"b{row}.png,,,,,drop," for row in range(6)), "corrections.csv leaves no test image"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(lines: Sequence[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        apply(foldered(), *lines)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a1.png,,,,,drop,", "line 2: it names a file: it is about other data than mine"),
        (",,valid,1,,drop,", "line 2: the split is 'valid': write train or test"),
        (",,train,12,,drop,", "line 2: mine has 12 train images, none with the index 12"),
        (",,train,1.5,,drop,", "line 2: the index is '1.5'"),
        (f",,train,{'9' * 5000},,drop,", "line 2: the index is '99999999999999999999'"),
    ],
)
def test_numbers_that_are_wrong(line: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        apply(numbered(), line)


def test_several_errors_are_counted() -> None:
    with pytest.raises(DataError, match=r"line 2: x is not .* \(and 1 more\)"):
        apply(foldered(), "x,,,,,drop,", "y,,,,,drop,")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'action' but path, label"):
        parse_corrections(b"path,label\na,b\n")
    with pytest.raises(DataError, match=r"no.csv cannot be read"):
        read_corrections(tmp_path / "no.csv")
    with pytest.raises(UsageError, match="is corrected already"):
        apply(apply(foldered(), "a1.png,,,,,drop,"), "a2.png,,,,,drop,")


def test_what_is_said_of_them() -> None:
    sentences = AppliedCorrections(b"", 3, 1, 2, 0, 4, 5).sentences()
    assert sentences == [
        "corrections: 4 labels changed (1 of test images), 2 images left out (0 test images); 4 labels confirmed, "
        "5 unsure",
        "scores on a corrected test set are not comparable with those on the published one",
    ]
    assert len(AppliedCorrections(b"", 3, 0, 2, 0).sentences()) == 1
    applied = AppliedCorrections(b"x", 1, 2, 3, 4, 5, 6)
    assert AppliedCorrections.from_dict(applied.to_dict()) == replace(applied, content=b"")
