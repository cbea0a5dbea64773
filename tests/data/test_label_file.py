"""Label files: what is read, how splits are drawn, and what is refused, with its line."""

import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import tenfold
from tenfold import data
from tenfold.data import LabelFile, folder_of
from tenfold.data.check import check_folder
from tenfold.data.folder import load_folder, read_folder
from tenfold.data.groups import draw_groups, unite
from tenfold.data.image_cache import forget_folder
from tenfold.data.label_file import list_labels
from tenfold.data.listing import Listing
from tenfold.errors import DataError, UsageError
from tests.support.images import save
from tests.support.process import Invoke

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """A cache of its own for every test."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty different images, 0.png to 39.png, in one folder."""
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.png").write_bytes(save(rng.integers(0, 256, (8, 8, 3), np.uint8), "PNG"))
    return folder


@pytest.fixture
def write(root: Path) -> Write:
    """Write a label file of these lines beside the images."""

    def run(*lines: str, name: str = "labels.csv", encoding: str = "utf-8", end: str = "\n") -> Path:
        path = root / name
        path.write_bytes((end.join(lines) + end).encode(encoding))
        return path

    return run


def listed(path: Path, columns: str = "", known: Sequence[str] = ()) -> Listing:
    return list_labels(path.parent, LabelFile(path, columns), known)


def errors(path: Path, columns: str = "") -> list[str]:
    return [issue.what for issue in listed(path, columns).issues if issue.severity == "error"]


def pairs(listing: Listing) -> list[tuple[str, str]]:
    return [(file.name, listing.classes[file.label]) for file in listing.files]


TWO = ("0.png,cat", "1.png,dog")
TWO_PAIRS = [("0.png", "cat"), ("1.png", "dog")]


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "encoding", "end"),
    [
        (("path,label", *TWO), "utf-8", "\n"),
        (("path;label", "0.png;cat", "1.png;dog"), "utf-8-sig", "\r\n"),
        (("path\tlabel", "0.png\tcat", "1.png\tdog"), "utf-16", "\n"),
        (("path|label", "0.png|cat", "1.png|dog"), "utf-8", "\r"),
        (("label , note, path", "cat, so, 0.png", "", '"dog","a, b",1.png'), "utf-8", "\n"),
        (("Path,CLASS", *TWO), "utf-8", "\n"),
    ],
)
def test_tables_of_many_kinds_are_read(write: Write, lines: Sequence[str], encoding: str, end: str) -> None:
    assert pairs(listed(write(*lines, encoding=encoding, end=end))) == [("0.png", "cat"), ("1.png", "dog")]


def test_only_columns_that_are_read_must_have_names_of_their_own(write: Write) -> None:
    """The first of two was taken without a word. One that is called so to the letter is meant."""
    assert pairs(listed(write("path,note,label,note", "0.png,x,cat,y", "1.png,x,dog,y"))) == TWO_PAIRS
    assert pairs(listed(write("path,Label,label", "0.png,x,cat", "1.png,y,dog"))) == TWO_PAIRS


def test_columns_of_other_names_are_named(write: Write) -> None:
    path = write("file,species,fold", "0.png,cat,train", "1.png,dog,train", "2.png,dog,dev")
    listing = listed(path, "path=file, label=species,split=fold")
    assert [(file.name, file.split) for file in listing.files] == [
        ("0.png", "train"),
        ("1.png", "train"),
        ("2.png", "val"),
    ]


@pytest.mark.parametrize("text", ["sub\\a b.png", "sub/./a b.png", "sub//a b.png", " sub/a b.png ", '"sub/a b.png"'])
def test_paths_of_many_kinds_are_found(root: Path, write: Write, text: str) -> None:
    (root / "sub").mkdir()
    shutil.move(root / "0.png", root / "sub" / "a b.png")
    assert pairs(listed(write("path,label", f"{text},cat", "1.png,dog")))[1] == ("sub/a b.png", "cat")


def test_a_name_with_a_backslash_is_a_name(root: Path, write: Write) -> None:
    (root / "a\\b.png").write_bytes((root / "0.png").read_bytes())
    assert pairs(listed(write("path,label", "a\\b.png,cat", "1.png,dog")))[1] == ("a\\b.png", "cat")


def test_both_forms_of_unicode_are_one_name_and_one_class(root: Path, write: Write) -> None:
    shutil.move(root / "0.png", root / unicodedata.normalize("NFD", "é.png"))
    listing = listed(write("path,label", "é.png,Käse", "1.png,dog", unicodedata.normalize("NFD", "2.png,Käse")))
    assert listing.classes == ("dog", "Käse") and len(listing.files) == 3 and not listing.issues[1:]


def test_paths_beside_the_folder(root: Path, tmp_path: Path) -> None:
    """Absolute ones, and `..`: an image below the folder is called by its path in there, however it is written."""
    inner = root / "lists"
    inner.mkdir()
    (inner / "labels.csv").write_text(f"path,label\n../0.png,cat\n{root / '1.png'},dog\n{inner}/../2.png,dog\n")
    assert pairs(listed(inner / "labels.csv")) == [
        ("../0.png", "cat"),
        (f"{root}/1.png", "dog"),
        (f"{root}/2.png", "dog"),
    ]
    listing = list_labels(root, LabelFile(inner / "labels.csv"))
    assert [name for name, _ in pairs(listing)] == ["1.png", "2.png"]
    assert [issue.kind for issue in listing.issues if issue.severity == "error"] == ["missing image", "classes"]


def test_a_folder_may_be_named_from_within(root: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths below it are called alike, relative or absolute, so that one image is not two."""
    write("path,label", *TWO, f"{root}/0.png,cat")
    monkeypatch.chdir(root)
    for folder in (".", "../photos"):
        listing = list_labels(Path(folder), LabelFile(Path("labels.csv")))
        assert pairs(listing) == [("0.png", "cat"), ("1.png", "dog")]
        assert [issue.kind for issue in listing.issues] == ["repeated", "unlisted"]


def test_a_parquet_file_is_read(root: Path) -> None:
    columns = {
        "path": ["0.png", "1.png", "2.png"],
        "label": [3, 7, None],
        "weight": [1.5, None, 1.0],
        "note": [b"a"] * 3,
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "labels.parquet")
    listing = listed(root / "labels.parquet")
    assert [issue.what for issue in listing.issues if issue.severity == "error"] == [
        "labels.parquet, row 2: there is no weight",
        "labels.parquet, row 3: 2.png has no label",
        "labels.parquet has training images of 1 class instead of 2 to 1,000",
    ]
    assert pairs(listing) == [("0.png", "3")] and listing.files[0].weight == 1.5


def test_parquet_without_pyarrow_names_the_extra(root: Path) -> None:
    (root / "labels.parquet").write_bytes(b"PAR1")
    with patch("importlib.util.find_spec", return_value=None), pytest.raises(UsageError, match="extra 'parquet'"):
        listed(root / "labels.parquet")


def test_images_that_are_not_listed_are_counted(root: Path, write: Write, invoke: Invoke) -> None:
    (root / "notes.txt").write_text("no image")
    issue = listed(write("path,label", *TWO)).issues[-1]
    assert (issue.kind, issue.severity, len(issue.paths)) == ("unlisted", "warning", 38)
    assert issue.what == f"38 images in {root} are not in labels.csv"


# --- splits -----------------------------------------------------------------------------------------------------------


def many(groups: Callable[[int], str] = lambda number: "", column: str = "group") -> list[str]:
    head = f"path,label,{column}" if groups(1) else "path,label"
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(40)]
    return [head, *(f"{row},{groups(number)}" if groups(1) else row for number, row in enumerate(rows))]


def names(split: data.Split) -> set[str]:
    assert split.names is not None
    return set(split.names.tolist())


def test_splits_are_drawn_as_for_folders(root: Path, write: Write, tmp_path: Path) -> None:
    """Of the same images, in folders of their classes, the same are drawn; another seed draws others."""
    dataset = data.load(str(root), labels=write(*many()))
    for number in range(40):
        (tmp_path / "sorted" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(root / f"{number}.png", tmp_path / "sorted" / "ab"[number % 2])
    sorted_ = load_folder(tmp_path / "sorted")
    assert names(dataset.test) == {Path(name).name for name in names(sorted_.test)} and len(dataset.test) == 8
    assert (dataset.name, dataset.classes) == ("photos/", sorted_.classes)
    other = data.load(str(root), labels=root / "labels.csv", seed=1)
    assert names(other.test) != names(dataset.test)


def test_splits_that_are_given_are_kept(root: Path, write: Write) -> None:
    words = ("Train", "training set", "val", "dev", "TEST")
    dataset = data.load(str(root), labels=write(*many(lambda number: words[number // 8], "split")))
    assert names(dataset.test) == {f"{number}.png" for number in range(32, 40)}
    val = dataset.train[-dataset.val_size :]
    assert names(val) == {f"{number}.png" for number in range(16, 32)} and len(dataset.train) == 32


def test_no_group_is_in_two_splits(root: Path, write: Write) -> None:
    """Eight groups of five images of both classes: one or two are drawn for testing, whole."""
    path = write(*many(lambda number: f"g{number // 5}"))
    drawn = set()
    for seed in range(6):
        dataset = data.load(str(root), labels=path, seed=seed)
        assert dataset.train.groups is not None and dataset.test.groups is not None
        train, test = (set(part.groups.tolist()) for part in (dataset.train, dataset.test))  # type: ignore[union-attr]
        assert not train & test and len(train | test) == 8 and 1 <= len(test) <= 2
        drawn |= test
    assert len(drawn) > 3


def test_drawn_groups_keep_the_classes_shares() -> None:
    """Sixty groups of one to nine images, each mostly of one of three classes: a fifth of every class, within two."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 10, 60)
    groups = np.repeat(np.arange(60), sizes)
    labels = np.where(rng.random(len(groups)) < 0.8, groups % 3, rng.integers(0, 3, len(groups)))
    for seed in "abc":
        drawn = draw_groups(labels, groups, [f"g{group}" for group in groups], 0.2, seed)
        assert all(drawn[groups == group].all() or not drawn[groups == group].any() for group in range(60))
        counts = np.bincount(labels)
        assert (np.abs(np.bincount(labels[drawn], minlength=3) - 0.2 * counts) <= 2).all()


def test_a_class_in_one_group_stays_in_training() -> None:
    labels = np.array([0] * 6 + [1] * 6)
    groups = np.array([0] * 6 + [1, 1, 2, 2, 3, 3])
    drawn = draw_groups(labels, groups, [str(group) for group in groups], 0.2, "0")
    assert not drawn[:6].any() and drawn[6:].sum() == 2


def test_copies_of_an_image_join_their_groups() -> None:
    """0 and 2 are in one group, 2 and 3 are the same image; 1 and 5 have neither in common with another."""
    groups = unite(["a", "", "a", "b", "b", "c"], ["x", "y", "z", "z", "v", "w"])
    assert groups.tolist() == [0, 1, 0, 0, 0, 2]


def test_weights_and_groups_are_of_their_images(root: Path, write: Write) -> None:
    lines = ["path,label,weight,group", *(f"{n}.png,{'ab'[n % 2]},{n / 4},g{n}" for n in range(40))]
    dataset = data.load(str(root), labels=write(*lines))
    for part in (dataset.train, dataset.test):
        assert part.names is not None and part.weights is not None and part.groups is not None
        for name, weight, group in zip(part.names, part.weights, part.groups, strict=True):
            assert (f"{4 * weight:g}.png", f"g{4 * weight:g}") == (name, group)


def test_decimal_commas_of_other_languages(write: Write) -> None:
    listing = listed(write("path;label;weight", "0.png;a;0,5", "1.png;b;1e-1"))
    assert [file.weight for file in listing.files] == [0.5, 0.1]


def test_labels_that_change_do_not_decode_again(root: Path, write: Write) -> None:
    folder = read_folder(root, 8, "stretch", labels=LabelFile(write(*many())))
    with patch("tenfold.data.image_cache._decode_all", side_effect=AssertionError):
        renamed = [many()[0], *(row.replace(",a", ",c") for row in reversed(many()[1:]))]
        again = read_folder(root, 8, "stretch", labels=LabelFile(write(*renamed)))
    assert again.listing.classes == ("b", "c") and again.sha256 != folder.sha256
    np.testing.assert_array_equal(again.images, folder.images)
    assert forget_folder(root) is not None and forget_folder(root) is None


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("path,label", *TWO, "no.png,cat"), "labels.csv, line 4: there is no file no.png"),
        (("path,label", *TWO, ",cat"), "labels.csv, line 4: the path is empty"),
        (("path,label", *TWO, "2.png,"), "labels.csv, line 4: 2.png has no label"),
        (("path,label", *TWO, "", "0.png,dog"), "labels.csv, lines 2 and 5: 0.png is labelled cat and dog"),
        (("path,label", *TWO, "./1.png,cat"), "labels.csv, lines 3 and 4: 1.png is labelled dog and cat"),
        (("path,label", *TWO, "a,b,cat"), "labels.csv, line 4: 3 cells instead of 2"),
        (("path,label", *TWO, "2.png"), "labels.csv, line 4: 1 cells instead of 2"),
        (
            ("path,label,note", *(f'{row},"two\nlines"' for row in TWO), "x,cat,"),
            "labels.csv, line 6: there is no file x",
        ),
        (("path,label,split", "0.png,cat,train", "1.png,dog,trian"), "labels.csv, line 3: the split is 'trian'"),
        (("path,label,split", "0.png,cat,train", "1.png,dog,"), "labels.csv, line 3: there is no split"),
        (
            ("path,label,split", "0.png,cat,train", "1.png,dog,train", "0.png,cat,test"),
            "labels.csv, lines 2 and 4: 0.png is in train and test",
        ),
        (
            ("path,label,split", "0.png,cat,train", "1.png,dog,train", "2.png,cow,test"),
            "labels.csv, line 4: no training image is of class cow, that this test image is of",
        ),
        (
            ("path,label,split,group", "0.png,cat,train,p1", "1.png,dog,train,p2", "2.png,dog,test,p1"),
            "labels.csv, lines 2 and 4: group 'p1' is in train and in test",
        ),
        (("path,label,weight", "0.png,cat,1", "1.png,dog,-1"), "labels.csv, line 3: the weight is '-1'"),
        (("path,label,weight", "0.png,cat,1", "1.png,dog,inf"), "labels.csv, line 3: the weight is 'inf'"),
        (("path,label,weight", "0.png,cat,1", "1.png,dog,much"), "labels.csv, line 3: the weight is 'much'"),
        (("path,label,weight", "0.png,cat,0", "1.png,dog,0"), "labels.csv: every training image has the weight 0"),
        (
            ("path,label,weight", "0.png,cat,1", "1.png,dog,0", "2.png,dog,0"),
            "labels.csv: every training image of class dog has the weight 0",
        ),
        (
            ("path,label,weight,split", "0.png,cat,1,train", "1.png,dog,0,train", "2.png,dog,1,test"),
            "labels.csv: every training image of class dog has the weight 0",
        ),
        (("path,label", "0.png,cat"), "labels.csv has training images of 1 class instead of 2 to 1,000"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(write: Write, lines: Sequence[str], said: str) -> None:
    assert said in errors(write(*lines))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ("file,label", "0.png,cat"),
            r"no column 'path' but file, label: say which one it is with --label-columns path=",
        ),
        (("path,lable", "0.png,cat"), r"no column 'label' but path, lable; did you mean lable\?"),
        (("path,label", '"0.png,cat'), r"labels.csv, line 2: it is no CSV"),
        (
            ("path,label,label", "0.png,cat,dog"),
            r"labels.csv has several columns called 'label' \(2 and 3\): rename all",
        ),
        (("Path,label,PATH", "0.png,cat,1.png"), r"labels.csv has several columns called 'path' \(1 and 3\)"),
        (("", ""), "is empty: its first line names the columns"),
    ],
)
def test_what_is_no_label_file_is_refused(write: Write, lines: Sequence[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        listed(write(*lines))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("path", "write it as path=file"),
        ("lable=x", "not 'lable'; did you mean label?"),
        ("path=a,path=b", "two columns for path: a and b"),
        ("weight=w", "has no column 'w'"),
    ],
)
def test_wrong_names_of_columns_are_refused(write: Write, columns: str, said: str) -> None:
    with pytest.raises(tenfold.TenfoldError) as caught:
        listed(write("path,label", *TWO), columns)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\xff", b"PK\x03\x04\0\0", b"\x89PNG\r\n\0", b"PAR1 but not more"])
def test_files_of_other_kinds_are_refused(root: Path, content: bytes) -> None:
    (root / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"labels.csv is (neither CSV|no parquet file)"):
        listed(root / "labels.csv")


def test_a_path_twice_with_one_label_is_skipped(write: Write) -> None:
    listing = listed(write("path,label", *TWO, "sub/../0.png,cat"))
    assert [file.name for file in listing.files] == ["0.png", "1.png"]
    assert ("labels.csv, lines 2 and 4: 0.png is there twice", "warning") in [
        (issue.what, issue.severity) for issue in listing.issues
    ]


def test_training_names_the_first_and_counts_the_rest(root: Path, write: Write) -> None:
    path = write("path,label", *TWO, "x.png,cat", "y.png,", ",dog")
    with pytest.raises(DataError) as caught:
        data.load(str(root), labels=path)
    assert str(caught.value) == (
        f"labels.csv, line 4: there is no file x.png: relative paths begin in {root}; name another folder with --data, "
        "or mend the path (and 3 more: tenfold data check lists them)"
    )


def test_a_bad_image_that_is_listed_is_skipped_as_in_folders(root: Path, write: Write) -> None:
    (root / "0.png").write_bytes(b"broken")
    (root / "1.txt").write_text("no image, but listed")
    with pytest.raises(DataError, match=r"2 of 41 images cannot be read, and --skip-bad 1% allows 1"):
        data.load(str(root), labels=write(*many(), "1.txt,a"))
    assert data.load(str(root), labels=root / "labels.csv", skip_bad="2").skipped == 2


def test_a_class_that_cannot_be_read_is_refused(root: Path, write: Write) -> None:
    (root / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="no training image of class cat can be read"):
        data.load(str(root), labels=write("path,label", *TWO, "2.png,dog"))


def test_labels_are_about_folders(root: Path, write: Write, tmp_path: Path) -> None:
    path = write(*many())
    assert folder_of(LabelFile(path), None) == f"{root}/"
    with pytest.raises(UsageError, match="--data must be their folder, not shapes"):
        data.load("shapes", labels=path)
    with pytest.raises(UsageError, match="name it with --labels"):
        data.load("shapes", label_columns="path=file")
    with pytest.raises(DataError, match="cannot be read"):
        data.load(str(tmp_path), labels=tmp_path / "no.csv")
    with pytest.raises(DataError, match="is a folder, not a CSV"):
        data.load(str(tmp_path), labels=tmp_path)


# --- data check -------------------------------------------------------------------------------------------------------


def test_data_check_lists_all(root: Path, write: Write, invoke: Invoke) -> None:
    path = write("path,label,split", "0.png,cat,train", "1.png,dog,train", "x.png,dog,train", "2.png,dog,tset")
    code, out, _ = invoke("data", "check", root, "--labels", path, "--json")
    found = json.loads(out)
    assert code == 3 and not found["trainable"] and found["counts"] == {"train": {"cat": 1, "dog": 1}}
    kinds = {issue["kind"] for issue in found["issues"]}
    assert {"missing image", "unknown split", "unlisted"} <= kinds
    code, out, _ = invoke("data", "check", "--labels", write(*many()))
    assert code == 0 and "can be trained on" in out
    code, _, err = invoke("data", "check")
    assert code == 2 and "name a folder of images, or a label file" in err
    code, out, _ = invoke("data", "check", env=os.environ | {"TENFOLD_LABELS": str(path)})
    assert code == 0


def test_a_leak_between_splits_is_seen(root: Path, write: Write) -> None:
    shutil.copy(root / "0.png", root / "copy.png")
    lines = [*many(lambda number: "train", "split"), "copy.png,a,test"]
    checked = check_folder(root, labels=LabelFile(write(*lines)))
    assert "0.png is the same image as copy.png, in another split" in [issue.what for issue in checked.issues]
