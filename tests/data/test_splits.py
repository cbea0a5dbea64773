"""Folders of train, val and test images by all their common names; and "classes" that are none."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tenfold
from tenfold.data.folder import load_folder
from tenfold.data.listing import list_folder
from tenfold.data.splits import parse_split
from tenfold.errors import DataError
from tests.support.images import save


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """A cache of its own for every test."""


def make(root: Path, counts: dict[str, int]) -> Path:
    """A folder with so many different images in each subfolder."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(save(rng.integers(0, 256, (8, 8, 3), np.uint8), "PNG"))
    return root


def of_two_classes(root: Path, train: str, *others: str) -> Path:
    return make(root, {f"{split}/{name}": 4 if split == train else 2 for split in (train, *others) for name in "ab"})


NAMES = {
    "train": """train Train TRAIN training Training trn train_set trainset train-set training_set Training-Set train~set
        training_data train_data traindata train_images train2017 seg_train asl_alphabet_train Training~data 01_train
        train.images""",
    "val": """val Val valid validation Validation dev devel val_set valset validation-set eval evaluation val2017
        dev~set validation~images""",
    "test": """test Test TEST testing Testing tst test_set testset testing_data test-images seg_test test1 Tests
        test~set 03_test asl_alphabet_test""",
}
PREFIXES = ("seg_", "asl_alphabet_")


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in NAMES.items() for name in names.split()])
def test_common_names_of_splits_are_known(split: str, name: str, tmp_path: Path) -> None:
    name = name.replace("~", " ")
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    names = {"train": f"{prefix}train", "test": f"{prefix}test"} | {split: name}
    listing = list_folder(of_two_classes(tmp_path, *names.values()))
    assert (listing.classes, listing.issues) == (("a", "b"), [])
    counts = {"train": 8, "test": 4, "val": 4}
    assert Counter(file.split for file in listing.files) == {split: counts[split] for split in names}


PUBLISHED: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "Training and Testing": (
        {"Training/glioma": 3, "Training/none": 3, "Testing/glioma": 1, "Testing/none": 1},
        {"train": 6, "test": 2},
    ),
    "each split in a folder of its name": (
        {
            **{"seg_train/seg_train/forest": 3, "seg_train/seg_train/sea": 3},
            **{"seg_test/seg_test/forest": 1, "seg_test/seg_test/sea": 1},
        },
        {"train": 6, "test": 2},
    ),
    "sets in sets": (
        {f"{split}_set/{split}_set/{name}": 2 for split in ("training", "test") for name in ("cats", "dogs")},
        {"train": 4, "test": 4},
    ),
    "all three": (
        {f"{split}/{name}": 2 for split in ("train", "valid", "test") for name in ("a", "b")},
        {"train": 4, "val": 4, "test": 4},
    ),
    "training alone": ({"training_set/a": 5, "training_set/b": 5}, {"train": 10}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts_are_read_as_meant(name: str, tmp_path: Path) -> None:
    counts, expected = PUBLISHED[name]
    listing = list_folder(make(tmp_path, counts))
    assert Counter(file.split for file in listing.files) == expected
    assert listing.classes == tuple(sorted({path.split("/")[-1] for path in counts})) and listing.issues == []


def test_splits_in_folders_of_their_names_are_loaded(tmp_path: Path) -> None:
    dataset = load_folder(make(tmp_path / "intel", PUBLISHED["each split in a folder of its name"][0]))
    assert dataset.test.names is not None
    assert sorted(dataset.test.names) == ["seg_test/seg_test/forest/0.png", "seg_test/seg_test/sea/0.png"]


# What is called like a split and is a class: without a folder to train on beside it, or without folders in it.
CLASSES: dict[str, dict[str, int]] = {
    "plain": {"train": 2, "bus": 2},
    "of medicine": {"blood_test/1": 2, "blood_test/2": 2, "pregnancy_test/1": 2, "pregnancy_test/3": 2},
    "of medicine, images": {"blood_test": 2, "pregnancy_test": 2},
    "two of a split": {"test": 2, "exam": 2, "dev": 2},
    "of sports": {"training": 2, "match": 2},
    "of sports, in folders": {"training/monday": 2, "training/tuesday": 2, "match/sunday": 2},
    "dev in folders": {"dev/1": 2, "dev/2": 2, "ops/3": 2},
    "two trains": {"steam train/1": 2, "steam train/2": 2, "bullet train/1": 1, "bullet train/3": 2},
    "one folder in each": {"a/images": 2, "b/images": 2, "c/images": 2},
    "some folders alike": {"a/1": 2, "a/2": 2, "b/2": 2, "b/3": 2, "b/4": 2},
    "folders alike beside images": {"a/x": 2, "a/y": 2, "b/x": 2, "b/y": 2, "b": 1},
}


@pytest.mark.parametrize("name", CLASSES)
def test_names_of_splits_may_be_classes(name: str, tmp_path: Path) -> None:
    listing = list_folder(make(tmp_path, CLASSES[name]))
    assert set(listing.classes) == {path.split("/")[0] for path in CLASSES[name]}
    assert listing.issues == [] and {file.split for file in listing.files} == {""}
    assert len(listing.files) == sum(CLASSES[name].values())


FLAT = "hold images but no class folders: sort the images into one folder for each class within them"
REFUSED: dict[str, tuple[dict[str, int], str]] = {
    "parts": (
        {f"part{number}/{name}": 1 for number in (1, 2) for name in ("cats", "dogs")},
        "part1 and part2 hold no images of their own but the same folders (cats and dogs), as splits or versions of "
        "one data set do, not classes: name one of them, as {root}/part1, or rename them train, val and test",
    ),
    "versions, nearly alike": (
        {f"{kind}/{number}": 1 for kind in ("colour", "grey", "cut") for number in range(4)} | {"grey/9": 1},
        "colour, cut and grey hold no images of their own but the same folders (0, 1, 2 and 1 more), as splits",
    ),
    "splits within the classes": (
        {f"{name}/{split}": 1 for name in ("daisy", "rose") for split in ("train", "test")},
        "daisy and rose hold no images of their own but the same folders (test and train): turn them round, so that "
        "each split holds the classes",
    ),
    "one level": (
        {"flowers/daisy": 1, "flowers/rose": 1},
        "the classes lie deeper in {root}: its folder flowers holds daisy and rose: name {root}/flowers instead",
    ),
    "two levels": (
        {"archive/flowers/daisy": 1, "archive/flowers/rose": 1, "archive/flowers/tulip": 1},
        "its folder archive/flowers holds daisy, rose and tulip: name {root}/archive/flowers instead",
    ),
    "splits in a folder": (
        {"data/train/a": 1, "data/train/b": 1, "data/test/a": 1},
        "its folder data holds test and train: name {root}/data instead",
    ),
    "beside folders without images": (
        {"images/a": 1, "images/b": 1, "labels": 0},
        "its folder images holds a and b: name {root}/images instead",
    ),
    "in a split": (
        {"train/images/a": 1, "train/images/b": 1, "test/images/a": 1, "test/images/b": 1},
        "its folder images holds a and b: make one folder for each class in train/",
    ),
    "nothing to train on": (
        {"Testing/a": 1, "Testing/b": 1, "eval/a": 1},
        "eval and Testing hold folders, but there is no train/ beside them: move the classes to train on into train/",
    ),
    "test beside the classes": (
        {"a": 2, "b": 2, "test_set/a": 1, "test_set/b": 1},
        "test_set holds folders, but there is no train/ beside it: move the classes to train on into train/",
    ),
    "splits without classes": ({"train": 3, "test1": 2}, f"test1 and train in {{root}} {FLAT}"),
    "splits of all kinds without classes": (
        {"train": 2, "test": 2, "dev": 2, "Validation": 2},
        f"dev, test, train and 1 more in {{root}} {FLAT}",
    ),
    "splits without classes, deeper": (
        {"pictures/train": 2, "pictures/val": 2},
        f"train and val in {{root}}/pictures {FLAT}",
    ),
    "a class without images beside one of folders": (
        {"daisy/2019": 1, "daisy/2020": 1, "rose": 0},
        "its folder daisy holds 2019 and 2020: name {root}/daisy instead; or, if daisy is a class itself, add images "
        "to rose",
    ),
    "one class": ({"a/1": 1}, "has 1 class folder instead of 2 to 1,000"),
    "one class, in a folder of its name": ({"flowers/flowers": 1}, "has 1 class folder instead of 2 to 1,000"),
    "two of a split": (
        {"train/a": 1, "train/b": 1, "val/a": 1, "validation/a": 1},
        "of val and validation two are the same split: merge them",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_classes_that_are_none_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    counts, said = REFUSED[name]
    root = make(tmp_path / "root", counts)
    with pytest.raises(DataError) as refused:
        load_folder(root)
    assert said.format(root=root) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("images", [("images/train", "images/val"), ("train/images", "val/images"), ("images",)])
def test_images_with_marks_beside_are_no_classes(images: tuple[str, ...], tmp_path: Path) -> None:
    """As YOLO has them: one text file an image, in folders of the same names below labels/."""
    root = make(tmp_path / "root", dict.fromkeys(images, 2))
    for name in images:
        labels = root / name.replace("images", "labels")
        labels.mkdir(parents=True)
        (labels / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError) as refused:
        load_folder(root)
    assert f"images and labels in {root}" in str(refused.value) and "no classes but images" in str(refused.value)


def test_tiny_imagenet_is_trained_on_and_its_list_is_named(tmp_path: Path) -> None:
    counts = {"train/n01/images": 3, "train/n02/images": 3, "val/images": 2, "test/images": 2}
    root = make(tmp_path / "tiny", counts)
    (root / "val" / "val_annotations.txt").write_text("0.png\tn01\t0\t0\t7\t7\n")
    listing = list_folder(root)
    assert (listing.classes, {file.split for file in listing.files}) == (("n01", "n02"), {"train"})
    assert [str(issue) for issue in listing.issues if issue.kind == "unlabelled split"] == [
        "test holds no class folders: left out; sort its images into folders named as the classes, or have them "
        "answered by tenfold predict",
        "val holds no class folders: left out; sort its images into folders named as the classes, as "
        "val_annotations.txt says, or have them answered by tenfold predict",
    ]
    assert len(load_folder(root).train) == 4  # of three images a class one is drawn for testing


ALIKE = {f"{name}/{place}": 2 for name in ("cats", "dogs") for place in ("indoor", "outdoor")}


def test_classes_that_hold_the_same_folders_are_warned_of_only(tmp_path: Path) -> None:
    listing = list_folder(make(tmp_path, ALIKE))
    assert listing.classes == ("cats", "dogs") and len(listing.files) == 8
    (issue,) = listing.issues
    assert (issue.severity, str(issue)) == (
        "warning",
        "all classes hold the same folders, as indoor and outdoor: if those are the classes, turn the two levels round",
    )


@pytest.mark.parametrize(
    "counts",
    [
        ALIKE,
        {"cats/indoor": 1, "cats/outdoor": 1},
        {"cats/train": 1, "cats/test": 1, "dogs/train": 1, "dogs/test": 1},
        {"cats/1": 1, "cats/2": 1, "dogs": 0, "birds": 0},
    ],
)
def test_folders_named_as_a_models_classes_are_classes(counts: dict[str, int], tmp_path: Path) -> None:
    listing = list_folder(make(tmp_path, counts), known=("cats", "dogs"))
    assert len(listing.files) == sum(counts.values())
    assert not [issue for issue in listing.issues if issue.severity == "error"]


def test_images_to_answer_beside_the_splits_are_no_class(tmp_path: Path) -> None:
    root = make(tmp_path, {"train/a": 2, "train/b": 2, "test": 3, "seg_pred/seg_pred": 2})
    listing = list_folder(root)
    assert (listing.classes, len(listing.files)) == (("a", "b"), 4)
    assert sorted(map(str, listing.issues)) == [
        "seg_pred lies beside train/: left out; move it into train/ if it is a class",
        "test holds no class folders: left out; sort its images into folders named as the classes, or have them "
        "answered by tenfold predict",
    ]


def test_unsorted_images_in_a_folder_of_the_splits_name_are_no_class(tmp_path: Path) -> None:
    listing = list_folder(make(tmp_path, {"train/a": 2, "train/b": 2, "test/test": 3}))
    assert [issue.kind for issue in listing.issues] == ["unlabelled split"] and len(listing.files) == 4
    make(tmp_path, {"train/test": 2})  # now it is the test images of a class
    assert [issue.kind for issue in list_folder(tmp_path).issues] == []


def test_a_second_name_of_a_split_is_left_out_where_one_is_plain(tmp_path: Path) -> None:
    listing = list_folder(make(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "dev/a": 1, "dev/b": 1}))
    assert Counter(file.split for file in listing.files) == {"train": 4, "val": 1}
    assert [issue.kind for issue in listing.issues] == ["stray folder"]


def test_own_output_beside_splits_is_no_stray_folder(tmp_path: Path) -> None:
    root = of_two_classes(tmp_path, "train", "test")
    make(root, {"runs/r/plots": 2})
    for name in ("recipe.json", "env.json"):
        (root / "runs" / "r" / name).write_text("{}")
    assert [issue.kind for issue in list_folder(root).issues] == ["own output"]


# --- what training repeats of `data check` ----------------------------------------------------------------------------


def test_training_repeats_what_check_warns_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path / "my flowers", {"train/a": 25, "train/b": 5, "train/c": 4, "test/a": 2, "more": 1})
    content = (root / "test" / "a" / "0.png").read_bytes()
    for name in ("train/a/again.png", "train/b/again.png"):
        (root / name).write_bytes(content)
    (root / "train" / "b" / "copy.png").write_bytes((root / "train" / "b" / "1.png").read_bytes())
    for name in ("train/x.png", "train/y.png", "train/a/notes.txt"):
        (root / name).write_bytes(b"milk")
    tenfold.load(str(root))
    *said, counts, imbalanced = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: train/a/again.png is the same image as train/b/again.png and 1 more, in another split: keep it in "
        "one split only",
        "warning: more lies beside train/: left out; move it into train/ if it is a class",
        "warning: 2 images lie outside any class, as train/x.png does: left out; move them into the folder of their "
        "class",
        "warning: b has only 7 images: add some (and 1 more like it)",
        f"tenfold data check '{root}' lists all that is odd, also no image (1), duplicates (1)",
    ]
    assert counts.startswith("my flowers/: 3 classes") and imbalanced.startswith("the classes are imbalanced")


def test_training_says_nothing_of_a_good_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenfold.load(str(make(tmp_path / "good", {"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 5})))
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "good/: 2 classes; 40 train, 10 test images, 25 a class"


def test_a_name_of_many_digits_takes_no_time() -> None:
    """A pattern that cut digits in every way took days for forty of them."""
    assert parse_split("train_" + "1" * 200 + "_x") is None
