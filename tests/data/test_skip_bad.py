"""Images that cannot be read: one is always allowed, more where the user says so; a run keeps what it was allowed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tenfold
from tenfold.cli.app import SKIP_BAD as OF_THE_COMMAND_LINE
from tenfold.data.check import check_folder
from tenfold.data.dataset import SKIP_BAD
from tenfold.data.entries import most_bad
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError, UsageError
from tests.support.images import save
from tests.support.process import Invoke

SHAPES = make_shapes(0, 80, 1).train.images


def write_folder(root: Path, images: int = 60, bad: int = 0) -> Path:
    """Two classes of `images` files in all, the last `bad` of them no images."""
    for number, pixels in enumerate(SHAPES[:images]):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save(pixels, "PNG") if number < images - bad else b"")
    return root


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own, shared by the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("TENFOLD_SKIP_BAD", raising=False)
        yield


@pytest.mark.parametrize(
    ("skip_bad", "images", "allowed"),
    [
        ("1%", 60, 1),  # always one
        ("1%", 199, 1),
        ("1%", 200, 2),
        ("1%", 50_000, 500),
        ("10%", 60, 6),
        ("2.5 %", 200, 5),
        ("29%", 100, 29),  # 0.29 · 100 is 28.999… in floating point
        ("100%", 7, 7),
        ("0%", 500, 0),
        ("0", 500, 0),
        ("3", 60, 3),
        ("all", 60, 60),
        (" ALL ", 60, 60),
    ],
)
def test_how_many_may_be_bad(skip_bad: str, images: int, allowed: int) -> None:
    assert most_bad(skip_bad, images) == allowed


@pytest.mark.parametrize("skip_bad", ["", "0.05", "-1", "101%", "1e3", "some", "%", "nan%"])
def test_what_is_no_number_of_images_is_said_before_anything_is_read(tmp_path: Path, skip_bad: str) -> None:
    for read in (
        lambda: tenfold.load(f"{tmp_path}/absent", skip_bad=skip_bad),
        lambda: check_folder(tmp_path, skip_bad),
    ):
        with pytest.raises(
            UsageError, match=r"--skip-bad is .*: write a number of images, a share of them as 5%, or all"
        ):
            read()


def test_one_bad_image_among_sixty_is_skipped(tmp_path: Path) -> None:
    """It was more than 1 % of them, and ended training."""
    dataset = tenfold.load(str(write_folder(tmp_path / "x", bad=1)))
    assert (len(dataset.train) + len(dataset.test), dataset.skipped) == (59, 1)
    assert check_folder(tmp_path / "x").worst == "skipped"


def test_two_bad_images_among_sixty_need_to_be_allowed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "x", bad=2)
    said = "2 of 60 images cannot be read, and --skip-bad 1% allows 1 .*skip more: --skip-bad NUMBER, 10% or all"
    with pytest.raises(DataError, match=said):
        tenfold.load(str(root))
    for enough in ("2", "5%", "all"):
        assert tenfold.load(str(root), skip_bad=enough).skipped == 2
        assert check_folder(root, enough).worst == "skipped"
    for strict in ("0", "1", "1%"):
        assert check_folder(root, strict).worst == "error"


def test_where_all_may_be_bad_every_class_still_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the class folder a holds no image"):
        tenfold.load(str(write_folder(tmp_path / "x", bad=60)), skip_bad="all")


def test_of_many_bad_images_the_first_are_named_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("tenfold.data.entries.log_info", said.append)
    tenfold.load(str(write_folder(tmp_path / "x", bad=25)), skip_bad="all")
    assert len(said) == 11 and said[0] == "skipped a/36.png: empty: it has zero bytes"
    assert said[-1] == "skipped 15 more: tenfold data check lists all that cannot be read"


@pytest.fixture(scope="module")
def trained(invoke: Invoke, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on a folder with five bad images of sixty, allowed by a variable, and the process that made it."""
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "x", bad=5)
    words = ("train", "--recipe", tiny_recipe, "--data", folder / "x", "--epochs", "2", "--out", folder / "run")
    return invoke(*words, env=os.environ | {"TENFOLD_SKIP_BAD": "10%"}), folder


@pytest.mark.slow
def test_a_run_says_and_notes_how_many_were_skipped(trained: Any) -> None:
    said, folder = trained
    assert said.returncode == 0, said.stderr
    assert "skipped 5 images of x/ that could not be read\n" in said.stdout
    noted = json.loads((folder / "run" / "env.json").read_text())["folder"]
    assert (noted["skip_bad"], noted["skipped"]) == ("10%", 5)
    assert json.loads((folder / "run" / "results.json").read_text())["skipped_images"] == 5
    page = (folder / "run" / "report.html").read_text()
    assert "--skip-bad 10%" in page and "images that could not be read" in page


@pytest.mark.slow
def test_later_commands_allow_what_the_run_was_allowed(invoke: Invoke, trained: Any) -> None:
    """None of them knows of it, and the usual 1 % would end them."""
    _, folder = trained
    for words in (["evaluate", folder / "run", "--json"], ["report", folder / "run"], ["export", folder / "run"]):
        said = invoke(*words)
        assert said.returncode == 0, said.stderr


def test_what_a_resumed_run_loads_is_what_it_was_allowed(trained: Any) -> None:
    from tenfold.training.provenance import reload_dataset
    from tenfold.training.run import Run

    _, folder = trained
    assert reload_dataset(Run.open(folder / "run")).skipped == 5


@pytest.mark.slow
def test_a_resumed_run_is_not_allowed_another_number(invoke: Invoke, trained: Any) -> None:
    _, folder = trained
    said = invoke("train", "--resume", "--out", folder / "run", "--skip-bad", "3")
    assert said.returncode == 2 and "was started with --skip-bad 10%, not 3: leave --skip-bad out" in said.stderr


@pytest.mark.slow
def test_other_images_are_allowed_what_is_asked_for(invoke: Invoke, trained: Any, tmp_path: Path) -> None:
    _, folder = trained
    root = write_folder(tmp_path / "other", images=40, bad=6)  # 15 %
    said = invoke("evaluate", folder / "run", "--data", root, "--json")
    assert said.returncode == 3 and "6 of 40 images cannot be read, and --skip-bad 10% allows 4" in said.stderr
    said = invoke("evaluate", folder / "run", "--data", root, "--skip-bad", "15%", "--json")
    answer = json.loads(said.stdout)
    assert (said.returncode, answer["test_images"], answer["skipped_images"]) == (0, 34, 6)


def test_where_no_folder_is_read_the_option_is_not_silently_without_effect(
    invoke: Invoke, trained: Any, tmp_path: Path
) -> None:
    run = trained[1] / "run"
    named = "--skip-bad is about a folder of images"
    bench = ("bench", "--data", "shapes", "--out", tmp_path / "bench")
    for words in (
        ("train", "--data", "shapes", "--out", tmp_path / "run"),
        (*bench, "--runs", "1"),
        ("profile", "--data", "shapes"),
        ("tune", "fast89", "--trials", "1", "--data", "shapes", "--out", tmp_path / "tune"),
        ("data", "show", "shapes", "--out", tmp_path / "x.png"),
        ("evaluate", run, "--data", "shapes"),
    ):
        code, out, err = invoke(*words, "--skip-bad", "5%")
        assert (code, out) == (2, "") and named in err, err
    assert list(tmp_path.iterdir()) == []
    for more in ((), ("--data", trained[1] / "x")):
        code, _, err = invoke("evaluate", run, "--skip-bad", "all", *more)
        assert code == 0 and "--skip-bad all is without effect: " in err


def test_data_check_counts_by_the_same_rule(invoke: Invoke, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "x", bad=3)
    assert invoke("data", "check", root).returncode == 3
    assert invoke("data", "check", root, "--skip-bad", "3").returncode == 8
    assert invoke("data", "check", root, env=os.environ | {"TENFOLD_SKIP_BAD": "all"}).returncode == 8


def test_a_run_of_before_has_the_usual_limit(tmp_path: Path) -> None:
    from tenfold.data import Origin

    assert Origin(path="x", sha256="0", size=32, resize="stretch").skip_bad == "1%"


def test_the_command_line_has_the_same_default() -> None:
    """Written twice, since the data set's module brings NumPy, and --help starts without it."""
    assert OF_THE_COMMAND_LINE == SKIP_BAD
