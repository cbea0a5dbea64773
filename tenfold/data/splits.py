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

    They hold folders, and have a plain name, lie beside nothing else, or hold folders named as those beside them.
    """
    splits = {path: parse_split(path.name) for path in folders}
    named = [path for path, found in splits.items() if found and found[1] != "train" and holds_folders(path)]
    classes = {path.name for path in folders} - {path.name for path in named}
    return [
        path for path in named if _is_plain(path) or not classes or classes & {inner.name for inner in subfolders(path)}
    ]


def inner_split(folder: Path) -> Path:
    """The folder that holds a split's classes: in archives, often one of the split's own name within it."""
    inner = subfolders(folder)
    while len(inner) == 1 and _same_split(inner[0], folder) and not _images_in(folder) and holds_folders(inner[0]):
        folder, inner = inner[0], subfolders(inner[0])
    return folder


def is_unlabelled(split: Path, train: Path) -> bool:
    """Whether a split's images lie in one folder of its own name, and so belong to no class of `train`."""
    inner = subfolders(split)
    one = len(inner) == 1 and _same_split(inner[0], split) and not holds_folders(inner[0])
    return one and not (train / inner[0].name).is_dir()


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
    if any(_images_in(path) for path in classes.values()):
        return None
    return _explain_deeper(root, classes) or _explain_repeated(root, classes)


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
    names = _named([path.name for path in inner])
    what = f"the classes lie deeper in {root}: its folder {folder.relative_to(root)} holds {names}"
    return what, f"name {folder} instead"


def _explain_repeated(root: Path, classes: Mapping[str, Path]) -> tuple[str, str] | None:
    """Where the folders hold the same folders and no images of their own."""
    if len(classes) < 2:
        return None
    names = [{inner.name for inner in subfolders(path)} for path in classes.values()]
    common, every = set.intersection(*names), set.union(*names)
    if len(common) < 2 or 2 * len(common) < len(every):
        return None
    inner = _named(sorted(common))
    what = f"{_named([*classes])} hold no images of their own but the same folders ({inner})"
    if all(parse_split(name) for name in common):
        return what, "turn them round, so that each split holds the classes"
    one = next(iter(classes.values()))
    what = f"{what}, as splits or versions of one data set do, not classes"
    return what, f"name one of them, as {one}, or rename them train, val and test"


def _named(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED:,} more"
