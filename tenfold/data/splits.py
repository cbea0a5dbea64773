"""What folder names say of splits: which are train, val and test, and when "classes" are no classes. Looks at names."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tenfold.data.ignored import holds_image, is_hidden, is_image, is_own

PLAIN = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names that hardly stand for anything else. The others count where a second split or the lack of classes bears them
out: `training` may be a class of sports."""
_WORDS = PLAIN | {
    **dict.fromkeys(("training", "trn"), "train"),
    **dict.fromkeys(("validate", "dev", "devel", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("tests", "testing", "tst"), "test"),
}
_NOUNS = r"(?:sets?|split|data|datasets?|images?|imgs?|photos?|pictures?|samples?|files?|folder|\d{1,4}(?!\d))"
_NAME = re.compile(rf"(?:(?P<prefix>.*) )?(?P<word>{'|'.join(sorted(_WORDS, key=len, reverse=True))})(?: ?{_NOUNS})*")
_PART = re.compile(
    r"(?:(?:part|fold|batch|version|ver|v|set|subset|split|session|archive|data|dataset|run|copy) ?\d{0,4}|\d{1,2}"
    r"|colou?rs?|grey|gr[ae]y ?scale|gray|rgb|segmented|originals?|augmented|cropped|cut|resized|raw|processed)"
)
_IMAGES = ("images", "imgs", "image", "img", "jpegimages")
_LABELS = ("labels", "label", "annotations", "annotation", "ann")
_MOST_DEPTH = 5  # folders that are looked through, one in the other, for where the classes lie
_MOST_NAMED = 3  # names in a message


def parse_split(name: str) -> tuple[str, str] | None:
    """What stands before the split's name, and the split: (seg, train) of `Seg-Train_set`. None for another name."""
    found = _NAME.fullmatch(" ".join(re.split(r"[\W_]+", name.casefold())).strip())
    if not found:
        return None
    prefix = [word for word in (found["prefix"] or "").split() if not word.isdecimal()]  # 1_train, 2_test
    return " ".join(prefix), _WORDS[found["word"]]


def choose_splits(folders: Collection[Path]) -> dict[Path, str]:
    """The folders that are the train, val and test images of one data set, by name; two may be the same split.

    {} where none is for training, or where the name alone is too little: see `PLAIN`.
    """
    groups: dict[str, dict[Path, str]] = {}
    for path in folders:
        parsed = parse_split(path.name)
        if parsed and holds_folders(path):
            groups.setdefault(parsed[0], {})[path] = parsed[1]
    for _, group in sorted(groups.items()):
        plain = {split for path, split in group.items() if _is_plain(path)}
        splits = {path: split for path, split in group.items() if _is_plain(path) or split not in plain}
        sure = "train" in plain or len({*splits.values()}) > 1 or len(group) == len(folders)
        if sure and "train" in splits.values():
            return splits
    return {}


def _is_plain(path: Path) -> bool:
    return path.name.casefold() in PLAIN


def untrained_splits(folders: Collection[Path]) -> list[Path]:
    """Of folders without a split to train on, those that are val or test images all the same, and no classes.

    They hold folders, and have a plain name, lie beside nothing else, or hold folders named as those beside them. With
    words before the split's name, a second split must have the same: `blood_test` and `pregnancy_test` are classes.
    """
    parsed = {path: found for path in folders if (found := parse_split(path.name)) and holds_folders(path)}
    splits = {path: found for path, found in parsed.items() if not found[0] or _has_partner(found, parsed.values())}
    named = [path for path, (_, split) in splits.items() if split != "train"]
    classes = {path.name for path in folders} - {path.name for path in named}
    return [
        path for path in named if _is_plain(path) or not classes or classes & {inner.name for inner in subfolders(path)}
    ]


def _has_partner(found: tuple[str, str], others: Collection[tuple[str, str]]) -> bool:
    return any(prefix == found[0] and split != found[1] for prefix, split in others)


def inner_split(folder: Path) -> Path:
    """The folder that holds a split's classes: in archives, often one of the split's own name within it."""
    inner = subfolders(folder)
    while len(inner) == 1 and _same_split(inner[0], folder) and not _images_in(folder) and holds_folders(inner[0]):
        folder, inner = inner[0], subfolders(inner[0])
    return folder


def is_unlabelled(split: Path, train: Path) -> bool:
    """Whether a split's images lie in one folder, of its own name or `images`, and so belong to no class of `train`."""
    inner = subfolders(split)
    if len(inner) != 1 or holds_folders(inner[0]) or (train / inner[0].name).is_dir():
        return False
    return _same_split(inner[0], split) or inner[0].name.casefold() in _IMAGES


def annotations(split: Path) -> Path | None:
    """The list beside a split's images that tells their classes, as Tiny ImageNet has; None where there is none."""
    try:
        return next((path for path in sorted(split.iterdir()) if "annotations" in path.name.casefold()), None)
    except OSError:
        return None


def _same_split(inner: Path, outer: Path) -> bool:
    within, without = parse_split(inner.name), parse_split(outer.name)
    return within is not None and without is not None and within[1] == without[1]


def holds_folders(path: Path) -> bool:
    """Whether there are folders in it, hidden ones and tenfold's output excepted."""
    return any(True for _ in _inner(path))


def subfolders(path: Path) -> list[Path]:
    """The folders in `path`, hidden ones and tenfold's output excepted, sorted; none where it cannot be read."""
    return sorted(_inner(path))


def _inner(path: Path) -> Iterator[Path]:
    try:
        yield from (
            inner for inner in path.iterdir() if not is_hidden(inner.name) and inner.is_dir() and not is_own(inner)
        )
    except OSError:
        return


def _images_in(path: Path) -> bool:
    """Whether images lie in a folder itself."""
    try:
        return any(not is_hidden(inner.name) and is_image(inner) for inner in path.iterdir())
    except OSError:
        return False


# --- classes that are none --------------------------------------------------------------------------------------------


def explain_classes(root: Path, classes: Mapping[str, Path]) -> tuple[str, str] | None:
    """Why the folders that would be classes below `root` are none, and what to do; None where nothing speaks for it."""
    return (
        _explain_detection(root, classes)
        or _explain_flat(root, [*classes.values()])
        or (None if _any_images(classes) else _explain_deeper(root, classes) or _explain_repeated(classes))
    )


def repeats(classes: Mapping[str, Path]) -> list[str]:
    """The folders, two or more, that all classes hold where no images lie beside them; [] where there are none."""
    if len(classes) < 2 or _any_images(classes):
        return []
    names = [{inner.name for inner in subfolders(path)} for path in classes.values()]
    common, every = set.intersection(*names), set.union(*names)
    return sorted(common) if len(common) > 1 and 2 * len(common) >= len(every) else []


def _any_images(classes: Mapping[str, Path]) -> bool:
    return any(_images_in(path) for path in classes.values())


def _explain_flat(root: Path, folders: Sequence[Path]) -> tuple[str, str] | None:
    """Where all folders are splits of one data set, and images lie in them without a folder for each class."""
    parsed = [parse_split(path.name) for path in folders]
    splits = {found[1] for found in parsed if found}
    if None in parsed or len({found[0] for found in parsed if found}) > 1 or len(splits) < 2 or "train" not in splits:
        return None
    if any(holds_folders(path) for path in folders) or not any(holds_image(path) for path in folders):
        return None
    names = _named([path.name for path in folders])
    what = f"{names} in {root} hold images but no class folders"
    return what, "sort the images into one folder for each class within them, as train/cats and train/dogs"


def _explain_detection(root: Path, classes: Mapping[str, Path]) -> tuple[str, str] | None:
    """Where files that tell where objects are lie beside folders of images, as YOLO and VOC have them."""
    names = {name.casefold(): path for name, path in classes.items()}
    images = [path for name, path in names.items() if name in _IMAGES]
    labels = [path for name, path in names.items() if name in _LABELS and _holds_texts(path)]
    if not images or not labels:
        return None
    what = f"{images[0].name} and {labels[0].name} in {root} are no classes but images and what was marked in them"
    return what, "sort the images into one folder for each class, and name the folder that holds these"


def _holds_texts(path: Path) -> bool:
    """Whether there are files that are no images in a folder or in the folders in it, and no image."""
    return not holds_image(path) and any(inner.is_file() for inner in path.glob("**/*"))


def _explain_deeper(root: Path, classes: Mapping[str, Path]) -> tuple[str, str] | None:
    """Where only one folder holds images, and these lie in folders of it: as archives are often unpacked."""
    holding = [path for path in classes.values() if holds_image(path)]
    if len(holding) != 1:
        return None
    folder, inner = holding[0], subfolders(holding[0])
    for _ in range(_MOST_DEPTH):
        if len(inner) != 1 or _images_in(folder):
            break
        folder, inner = inner[0], subfolders(inner[0])
    if len(inner) < 2 or _images_in(folder):
        return None
    if flat := _explain_flat(folder, inner):
        return flat
    names = _named([path.name for path in inner])
    what = f"the classes lie deeper in {root}: its folder {folder.relative_to(root)} holds {names}"
    empty = [name for name, path in classes.items() if path != holding[0]]
    other = f"; or, if {holding[0].name} is a class itself, add images to {_named(empty)}" if empty else ""
    return what, f"name {folder} instead{other}"


def _explain_repeated(classes: Mapping[str, Path]) -> tuple[str, str] | None:
    """Where the folders hold the same folders, and either these or those are named as parts of a data set are.

    Folders alike are no mistake by themselves: `cats/indoor`, `cats/outdoor`, `dogs/indoor`, `dogs/outdoor`.
    """
    common = repeats(classes)
    if not common:
        return None
    inner = _named(common)
    what = f"{_named([*classes])} hold no images of their own but the same folders ({inner})"
    if all(parse_split(name) for name in common):
        return what, "turn them round, so that each split holds the classes"
    if not all(_is_part(name) for name in classes):
        return None
    one = next(iter(classes.values()))
    what = f"{what}, as splits or versions of one data set do, not classes"
    return what, f"name one of them, as {one}, or rename them train, val and test"


def _is_part(name: str) -> bool:
    """Whether a folder is named as a split, part or version of a data set: `part1`, `fold-2`, `v3`, `grey`."""
    text = " ".join(re.split(r"[\W_]+", name.casefold())).strip()
    return parse_split(name) is not None or _PART.fullmatch(text) is not None


def _named(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED:,} more"
