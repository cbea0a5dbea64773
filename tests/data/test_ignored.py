"""What is never data: hidden, left by a system, made by tenfold. One rule, whoever reads the folder."""

import contextlib
import itertools
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

import tenfold
from tenfold import files
from tenfold.data.check import check_folder
from tenfold.data.folder import load_folder
from tenfold.data.listing import list_folder
from tenfold.errors import DataError
from tenfold.scaling.shards import find_shards
from tenfold.serving.inputs import find
from tests.support.images import save
from tests.support.process import Invoke

IMAGES = {"a/1.png", "a/2.png", "b/1.png", "b/2.png"}
Reader = Callable[[Path], set[str]]


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """A cache of its own for every test."""


def drawn(name: str) -> bytes:
    """An image that no other name has."""
    return save(np.random.default_rng(zlib.crc32(os.fsencode(name))).integers(0, 256, (8, 8, 3), np.uint8), "PNG")


def put(root: Path, *names: str) -> Path:
    """Write files: images where they are called so; `{}` for any other; with `=`, what follows."""
    for name in names:
        path = root / name.partition("=")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (name.partition("=")[2] + "\n").encode() if "=" in name else b"{}"
        path.write_bytes(drawn(name) if path.suffix in (".png", ".jpg") else text)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return put(tmp_path / "pictures", *IMAGES)


def images(root: Path, names: Iterable[str]) -> set[str]:
    """Those of the paths that are called images, below the root; any other is left out when it is read."""
    paths = [Path(name) for name in names]
    return {path.relative_to(root).as_posix() for path in paths if path.suffix in (".png", ".jpg")}


def trained_on(root: Path) -> set[str]:
    listing = list_folder(root)
    assert not [issue for issue in listing.issues if issue.severity == "error"]
    return images(root, (f"{root}/{file.name}" for file in listing.files))


def predicted(root: Path) -> set[str]:
    return images(root, (item.name for item in find([str(root)])))


def matched(root: Path) -> set[str]:
    return images(root, (item.name for item in find([f"{root}/**"])))


def matched_at_the_top(root: Path) -> set[str]:
    return images(root, (item.name for item in find([f"{root}/*"])))


def in_shards(root: Path) -> set[str]:
    return images(root, (name for shard in find_shards(str(root)) for name in shard.names))


def in_a_bucket(root: Path) -> set[str]:
    return images(root, (name for shard in find_shards(root.as_uri()) for name in shard.names))


READERS = (trained_on, predicted, matched, matched_at_the_top, in_shards, in_a_bucket)

LITTER: dict[str, tuple[str, ...]] = {
    "hidden": ("a/.x.png", "a/.thumbs/x.png", ".git/x.png"),
    "AppleDouble": ("a/._1.png", "__MACOSX/a/._1.png", "a/__MACOSX/x.png"),
    "macOS": (".DS_Store", "_DS_Store", ".Trashes/x.png", "a/.AppleDouble/x.png", "a/Temporary Items/x.png"),
    "Windows": ("Thumbs.db", "a/desktop.ini", "$RECYCLE.BIN/x.png", "System Volume Information/x.png"),
    "network storage": ("a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/x.png", "@Recycle/x.png", "a/@EADIR/x.png"),
    "file systems": ("lost+found/x.png", "LOST.DIR/x.png"),
}
RECIPE = '{"name": "x", "network": {}, "stages": []}'
RUN_FILES = ("runs/r/summary.txt", "runs/r/steps.csv", "runs/r/logits/test.safetensors", "runs/r/report.html")
OUTPUT: dict[str, tuple[str, ...]] = {
    "a run": ("runs/r/.tenfold=*", "runs/r/recipe.json", "runs/r/env.json", "runs/r/plots/history.png"),
    "a run of an old version": ("runs/r/recipe.json", "runs/r/env.json", "runs/r/plots/history.png"),
    "a run that was begun": ("runs/r/recipe.json", "runs/r/checkpoints/step.safetensors", "runs/r/plots/x.png"),
    "a run with its recipe only": (f"runs/r/recipe.json={RECIPE}", "runs/r/plots/history.png"),
    "a run whose environment is gone": (f"runs/r/recipe.json={RECIPE}", "runs/r/plots/x.png", *RUN_FILES),
    "a run whose environment is lost": ("runs/r/recipe.json", "runs/r/manifest.json", "runs/r/x.png"),
    "a model": ("best/model.json", "best/model.safetensors", "best/plots/history.png"),
    "a run in a class": ("a/r/recipe.json", "a/r/env.json", "a/r/plots/history.png"),
    "a draft": ("runs/.x1y2.partial/recipe.json", "runs/.tenfold="),
    "no run left": ("runs/.tenfold=",),
    "runs of another name": ("results/.tenfold=", "results/a/recipe.json", "results/a/env.json", "results/a/x.png"),
    "runs of another name of an old version": ("results/a/recipe.json", "results/a/env.json", "results/notes.txt"),
    "runs deeper down": ("results/1/a/recipe.json", "results/1/a/env.json", "results/1/a/plots/x.png"),
    "notes beside runs": ("runs/r/recipe.json", "runs/r/env.json", "runs/ideas/one.txt"),
    "a bench": ("runs/bench/bench.json", "runs/bench/recipes/x.recipe.json", "runs/bench/bench.png"),
    "a search": ("search/tune.json", "search/tune.db", "search/tune.png", "search/best.json"),
    "a search just begun": ("search/.tenfold=*", "search/tune.json", "search/tune.png"),
    "answers of a cluster": ("answers/request.json", "answers/part-00000000.parquet"),
    "answers just begun": ("answers/.tenfold=*", "answers/request.json"),
    "explanations": ("explanations/.tenfold=\"1.png\"\n\"1-2.png\"", "explanations/1.png", "explanations/1-2.png"),
    "explanations in a class": ("a/.tenfold=\"1-2.png\"", "a/1-2.png"),
    "a picture of the folder": (".tenfold=\"pictures.png\"", "pictures.png"),
    "a folder of exports": ("exports/.tenfold=", "exports/model.onnx"),
    "plots copied out of a run": ("plots/.tenfold=\"history.png\"", "plots/history.png"),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", [*LITTER, *OUTPUT])
def test_what_is_never_data_is_read_by_nobody(name: str, reader: Reader, root: Path) -> None:
    put(root, *(LITTER | OUTPUT)[name])
    assert reader(root) == IMAGES


def test_a_linked_run_is_left_out(root: Path, tmp_path: Path) -> None:
    put(tmp_path, *OUTPUT["a run"])
    (root / "runs").mkdir()
    (root / "runs" / "latest").symlink_to(tmp_path / "runs" / "r")
    for reader in (trained_on, predicted, in_shards):
        assert reader(root) == IMAGES


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("kept", "beside"),
    [
        ("runs/slope.png", ("runs/fast89-0/recipe.json", "runs/fast89-0/env.json", "runs/fast89-0/plots/x.png")),
        ("runs/monday/slope.png", ("runs/.tenfold=", "runs/r/.tenfold=*", "runs/r/plots/x.png")),
        ("explanations/mine.png", ("explanations/.tenfold=\"1.png\"", "explanations/1.png")),
        ("pizza/1.jpg", ("pizza/recipe.json",)),
        ("pizza/thin/1.jpg", ("pizza/recipe.json",)),
        ("pizza/plots/1.jpg", ("pizza/recipe.json", "pizza/results.json")),
        ("pizza/plots/1.jpg", ("pizza/recipe.json={\"name\": \"Margherita\", \"stages\": [\"knead\"]}",)),
        ("flowers/1.jpg", (f"flowers/recipe.json={RECIPE}",)),
        ("flowers/daisy/1.jpg", (f"flowers/recipe.json={RECIPE}",)),
        ("pizza/thin/crust/1.jpg", ("pizza/recipe.json", "pizza/notes.txt")),
        ("pizza/manifest.json.jpg", ("pizza/manifest.json", "pizza/model.json", "pizza/bench.json")),
        ("tenfold/1.png", ("tenfold/notes.txt",)),
        ("odd/1.png", ("odd/.tenfold=not a note\n[\"1.png\"]\n{", "odd/x.txt")),
    ],
)  # fmt: skip
def test_images_beside_output_are_data(kept: str, beside: tuple[str, ...], reader: Reader, root: Path) -> None:
    """A class of ski runs, say, or of food with a recipe in it."""
    put(root, kept, *beside)
    assert reader(root) == IMAGES | {kept}


def test_what_is_named_is_always_taken(root: Path) -> None:
    put(root, *LITTER["network storage"], *OUTPUT["a run"], *OUTPUT["explanations"], *OUTPUT["a picture of the folder"])
    named = {
        "a/@eaDir": {"a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg"},
        "#recycle/x.png": {"#recycle/x.png"},
        "@Recycle/*": {"@Recycle/x.png"},
        "runs": {"runs/r/plots/history.png"},
        "runs/r/plots/*": {"runs/r/plots/history.png"},
        "explanations": {"explanations/1.png", "explanations/1-2.png"},
        "explanations/*.png": {"explanations/1.png", "explanations/1-2.png"},
        "explanations/1.png": {"explanations/1.png"},
        "pictures.png": {"pictures.png"},
    }
    for source, expected in named.items():
        assert {Path(item.name).relative_to(root).as_posix() for item in find([f"{root}/{source}"])} == expected


def test_what_was_left_out_is_said(root: Path) -> None:
    put(
        root, *OUTPUT["a run"], *OUTPUT["a run in a class"], *OUTPUT["a picture of the folder"], *LITTER["file systems"]
    )
    found = {(issue.kind, str(issue), issue.paths) for issue in list_folder(root).issues}
    assert found == {
        *(("own output", f"{name} was made by tenfold: left out", (name,)) for name in ("runs", "a/r", "pictures.png")),
        *(("hidden folder", f"{name} is hidden: left out", (name,)) for name in ("lost+found", "LOST.DIR")),
    }
    assert check_folder(root).counts == {"": {"a": 2, "b": 2}}


def test_a_folder_of_runs_is_no_data_set(root: Path) -> None:
    put(root, *OUTPUT["a run"])
    with pytest.raises(DataError, match="runs has 0 class folders instead of 2 to 1,000, and was made by tenfold"):
        load_folder(root / "runs")


def test_a_hostile_note_does_no_harm(root: Path) -> None:
    (root / "a" / ".tenfold").write_bytes(b"[" * 200_000 + b'\n\xff\xfe\n"../b/1.png"\n123\nnull\n"1.png"\n')
    (root / "b" / ".tenfold").mkdir()
    assert trained_on(root) == predicted(root) == IMAGES - {"a/1.png"}


def test_notes_name_files_of_any_name(root: Path) -> None:
    """A line break, quotes and bytes that are no text come back as they were."""
    for name in ('"x"\n*.png', "\udcff.png", "é.png"):
        (root / "a" / name).write_bytes(drawn(name))
        files.note_own(root / "a" / name)
        files.note_own(root / "a" / name)
    assert trained_on(root) == predicted(root) == IMAGES
    assert len((root / "a" / ".tenfold").read_text().splitlines()) == 4


def test_a_folder_that_was_there_is_the_users(root: Path) -> None:
    files.make_folder(root / "a")
    files.make_folder(root / "new" / "inner")
    assert [path.parent.name for path in sorted(root.rglob(".tenfold"))] == ["new", "inner"]
    assert list_folder(root).classes == ("a", "b")


@pytest.mark.slow
@pytest.mark.train
def test_a_run_that_is_killed_at_any_moment_is_output(
    root: Path, tmp_path: Path, invoke: Invoke, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it lies there before and after each file that it writes, and as a copy without hidden files.

    And as a copy without env.json, which earlier versions took for a class as soon as it held `summary.txt`.
    """
    states: list[list[Path]] = []
    write, place = files.atomic_write, tmp_path / "place" / "runs"

    @contextlib.contextmanager
    def note_state(path: Path) -> Iterator[BinaryIO]:
        states.append([path.relative_to(place) for path in place.rglob("*")])
        with write(path) as file:
            yield file
        states.append([path.relative_to(place) for path in place.rglob("*")])

    monkeypatch.setattr(files, "atomic_write", note_state)
    words = ("train", "--recipe", tiny_recipe, "--data", "shapes", "--epochs", "1", "--out", place / "r")
    assert invoke(*words)[0] == 0
    assert len(states) > 30 and any(Path("r/plots/history.png") in state for state in states)
    keep: dict[str, Callable[[Path], bool]] = {
        "as it is": lambda path: True,
        "without hidden files": lambda path: not any(part.startswith(".") for part in path.parts),
        "without env.json": lambda path: path.name not in (".tenfold", "env.json", "manifest.json"),
    }
    for number, (state, (name, kept)) in enumerate(itertools.product(states, keep.items())):
        copy = root / f"runs-{number}"
        for path in (path for path in state if kept(path) and (place / path).is_file()):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place / path, copy / path)
        assert trained_on(root) == predicted(root) == IMAGES, (name, state)
        assert name != "as it is" or not copy.exists() or list_folder(root).classes == ("a", "b"), state
        shutil.rmtree(copy, ignore_errors=True)


# --- by the commands --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worked_in(
    tmp_path_factory: pytest.TempPathFactory, invoke: Invoke, tiny_recipe: Path
) -> tuple[Path, set[str], dict[str, str]]:
    """A folder in which a user trained, explained and drew, all with paths of their own choice or none."""
    place = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(place / "home"))
        root = put(place / "flowers", *(f"{name}/{number}.png" for name in ("daisy", "rose") for number in range(20)))
        images = {path.relative_to(root).as_posix() for path in root.rglob("*.png")}
        for words in (
            ("train", "--data", ".", "--recipe", tiny_recipe, "--epochs", "2", "--out", "runs/first"),
            ("explain", "runs/first", "daisy/1.png"),
            ("explain", "runs/first", "daisy/1.png", "--out", "rose"),
            ("explain", "runs/first", "daisy/1.png", "--out", "more/of/them"),
            ("data", "show", "."),
            (
                "train",
                "--data",
                ".",
                "--recipe",
                tiny_recipe,
                "--epochs",
                "2",
                "--no-report",
                "--out",
                "results/second",
            ),
        ):
            done = invoke(*words, cwd=root)
            assert done.returncode == 0, done.stderr
        return root, images, {"train": done.stderr}


@pytest.mark.train
@pytest.mark.slow
def test_work_in_the_folder_itself_changes_no_data(
    worked_in: tuple[Path, set[str], dict[str, str]], invoke: Invoke, tmp_path: Path
) -> None:
    """`cd flowers; tenfold train --data .` and all that follows; before, the next command failed or learned from it."""
    root, pictures, said = worked_in
    assert len(list(root.rglob("*.png"))) >= len(pictures) + 10
    listings = [(root / run / "split.csv").read_text() for run in ("runs/first", "results/second")]
    assert listings[0] == listings[1] and len(listings[0].splitlines()) == 41
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.copytree(root / "runs" / "first" / "plots", copy / "plots")
    for folder in (root, copy):
        for reader in READERS:
            assert reader(folder) == pictures
    assert "warning: flowers.png was made by tenfold: left out (and " in said["train"]
    done = invoke("data", "check", ".", "--json", cwd=root)
    assert json.loads(done.stdout)["counts"] == {"": {"daisy": 20, "rose": 20}}
    done = invoke("predict", ".", "--json", cwd=root)
    assert {json.loads(line)["path"] for line in done.stdout.splitlines()} == pictures


def test_a_clean_folder_is_trained_on_without_warnings(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3, 43):
        (root / "ab"[number % 2] / f"{number}.png").write_bytes(drawn(str(number)))
    put(root, *LITTER["hidden"], *LITTER["network storage"])
    tenfold.load(str(root))
    said = capsys.readouterr().err
    assert said.startswith("pictures/: 2 classes") and len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["Recycled", "Recycler"])
def test_a_class_of_waste_is_a_class(name: str, tmp_path: Path) -> None:
    """The bins of Windows XP were called so; today it is a class of a well-known kind of data set."""
    for folder in (name, "Compost"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(b"")
    assert set(list_folder(tmp_path).classes) == {name, "Compost"}
