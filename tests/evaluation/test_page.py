"""The page of a run as a file: what it holds, how large it is, and that names in it are text."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenfold.cli.app import print_accuracy
from tenfold.data.dataset import Origin
from tenfold.evaluation.calibration import calibrate
from tenfold.evaluation.metrics import shown
from tenfold.evaluation.page import charts, choice, picture, sections
from tenfold.evaluation.report import Known, _command, _reproduce_note
from tenfold.training.recipes import FAST89, REFERENCE
from tenfold.training.reproduction import reproduction
from tests.support.drawn_run import hostile_dataset, make_drawn_run


class Reader(HTMLParser):
    """Collects tags, their attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "run"
    make_drawn_run(path, hostile_dataset())
    return (path / "report.html").read_text()


def test_names_are_text_wherever_they_stand(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("script") == 2 and "img" not in tags
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "<img src=x onerror=alert(1)>" in reader.text and "{{ 7 * 7 }}" in reader.text
    assert "x" * 31 + "…" in reader.text and "\u202e" not in page and "\u0007" not in page


def test_the_policy_allows_this_style_and_this_script_only(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].startswith("default-src &#39;none&#39;; img-src data:;")
    for tag in ("style", "script"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)[-1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy[1]
    assert ' style="' not in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", re.sub(r"<script.*?</script>", "", page, flags=re.S))


def test_the_script_knows_every_mistake(page: str) -> None:
    data = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert data
    known = json.loads(data[1])
    assert known["classes"] == [shown(name) for name in hostile_dataset(1).classes]
    total = re.search(r"<dt>Mistakes</dt><dd>(\d+)", page)
    assert total and sum(truth != said for truth, said, *_ in known["images"]) == int(total[1]) > 50


def test_a_page_of_noise_where_all_is_wrong_stays_below_5_megabytes() -> None:
    """Noise does not compress: all 10,000 images would take 41 MB, the 1,800 chosen 7 MB, were they stored exactly."""
    noise = np.random.default_rng(0).integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    labels, sure = np.arange(10_000) % 10, np.linspace(0, 1, 10_000)
    numbers = choice.choose(labels, (labels + 1) % 10, sure, sure, picture.most_images(32, 32))
    assert len(numbers) == picture.MOST_IMAGES
    assert len(picture.make_sheet(noise, numbers)) < 4_700_000


def test_each_rule_of_the_sheet_shows_its_image() -> None:
    images = np.random.default_rng(1).integers(0, 256, (100, 8, 6, 3), dtype=np.uint8)
    numbers = np.arange(3, 98)  # 95 images, three rows of 40
    css = picture.make_sheet(images, numbers)
    address = re.search(r"base64,([^)]*)\)", css)
    assert address and "background-size:5333.333% 375%" in css  # with an edge of one pixel
    assert "aspect-ratio:0.7500" in css
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(address[1]))).convert("RGB"))
    rules = re.findall(r"\.i(\d+)\{background-position:([\d.]+)% ([\d.]+)%\}", css)
    assert len(rules) == 95
    for number, x, y in rules:
        left, top = round(float(x) / 100 * (40 * 8 - 6)), round(float(y) / 100 * (3 * 10 - 8))
        np.testing.assert_array_equal(sheet[top : top + 8, left : left + 6], images[numbers[int(number)]])
        np.testing.assert_array_equal(sheet[top - 1 : top + 9, left - 1], sheet[top - 1 : top + 9, left])


@pytest.mark.parametrize(("side", "most"), [(32, 1800), (64, 450), (16, 1800), (1024, 40)])
def test_larger_images_are_fewer(side: int, most: int) -> None:
    assert picture.most_images(side, side) == most


def test_every_kind_of_image_is_chosen_before_the_rest_of_the_mistakes() -> None:
    rng = np.random.default_rng(2)
    labels, predicted, sure = rng.integers(0, 5, 3000), rng.integers(0, 5, 3000), rng.random(3000)
    chosen = choice.choose(labels, predicted, sure, -sure, 300)
    assert len(chosen) == len(set(chosen.tolist())) == 300 and (np.diff(chosen) > 0).all()
    assert set(range(25)) <= set(chosen.tolist())
    mistakes = np.flatnonzero(labels != predicted)
    assert set(mistakes[np.argsort(-sure[mistakes])][:25].tolist()) <= set(chosen.tolist())
    for truth in range(5):
        for said in range(5):
            cell = np.flatnonzero((labels == truth) & (predicted == said))
            assert cell[sure[cell].argmax()] in chosen
    assert len(choice.choose(labels[:10], labels[:10], sure[:10], sure[:10], 300)) == 10


def test_of_every_class_the_worst_images_and_the_surest_right_ones_are_chosen() -> None:
    """Behind the cells of the confusion matrix there was no room for them where images are large."""
    rng = np.random.default_rng(3)
    labels, predicted, sure = rng.integers(0, 10, 10_000), rng.integers(0, 10, 10_000), rng.random(10_000)
    loss = rng.random(10_000)
    chosen = set(choice.choose(labels, predicted, sure, loss, picture.most_images(64, 64)).tolist())
    for label in range(10):
        own = np.flatnonzero(labels == label)
        right = own[predicted[own] == label]
        assert set(own[np.argsort(-loss[own])][: choice.EACH].tolist()) <= chosen
        assert set(right[np.argsort(-sure[right])][: choice.EACH].tolist()) <= chosen


def test_ranks_count_within_groups() -> None:
    assert choice.ranks(np.array([1, 0, 1, 0, 1]), np.array([5.0, 2, 3, 1, 4])).tolist() == [2, 1, 0, 0, 1]


def test_the_matrix_is_shaded_by_share_of_its_row() -> None:
    rows = sections.matrix_rows(np.array([[80, 20, 0], [1, 99, 0], [0, 0, 0]]))
    assert rows is not None
    styles = [[cell["style"] for cell in row] for row in rows]
    assert styles == [["right", "s5", "s0"], ["s1", "right", "s0"], ["s0", "s0", "right"]]
    largest = sections.matrix_rows(np.array([[84, 5], [0, 9]]))
    assert largest is not None and largest[0][1]["style"] == "s5", "5 · 5/89 / (5/89) is more than 5 in floating point"
    assert sections.matrix_rows(np.eye(31, dtype=int)) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.87, 0.93, [0.87, 0.88, 0.89, 0.9, 0.91, 0.92, 0.93]),
        (0, 35, [0, 10, 20, 30]),
        (-3, 2, [-3, -2, -1, 0, 1, 2]),
        (2, 2, [2]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_a_line_is_drawn_where_its_values_lie() -> None:
    line = charts.Line(np.array([0.0, 1.0, 2.0]), np.array([0.0, np.nan, 10.0]), "<a & b>", "a", dots=True)
    drawn = charts.chart([line], charts.Axis("x", 0, 2, charts.plain), charts.Axis("y", 0, 10, charts.plain), "t")
    assert 'points="58.0,254.0 494.0,12.0"' in drawn and drawn.count("<circle") == 2
    assert "&lt;a &amp; b&gt;" in drawn


def test_thinning_keeps_means() -> None:
    x, y = charts.thin(np.arange(3000.0), np.tile([1.0, 3.0], 1500))
    assert len(x) == 300 and (y == 2).all() and x[0] == 4.5
    assert [len(part) for part in charts.thin(np.zeros(0), np.zeros(0))] == [0, 0]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (FAST89, "--recipe fast89 --data cifar10 --seed 3"),
        (FAST89.with_val_size(500), "--recipe fast89 --data cifar10 --seed 3 --val-size 500"),
        (FAST89.with_epochs(1.5), "--recipe fast89 --data cifar10 --seed 3 --epochs 1.5"),
        (REFERENCE, "--recipe reference --data cifar10 --seed 3"),
        (replace(FAST89, translate=2), "--recipe recipe.json --data cifar10 --seed 3"),
        (replace(FAST89, name="mine"), "--recipe recipe.json --data cifar10 --seed 3"),
    ],
)
def test_the_command_trains_this_recipe_again(recipe: object, said: str) -> None:
    assert reproduction(recipe, 3, "cifar10", None, 0.01) == f"tenfold train {said}"  # type: ignore[arg-type]


def test_the_command_names_the_folder_but_not_where_it_is() -> None:
    said = "tenfold train --recipe fast89 --data 'my pets/' --seed 3 --size 48 --resize center_crop"
    assert reproduction(FAST89, 3, "my pets/", Origin("/home/me/my pets", "0", 48, "center_crop"), 0.01) == said


def test_a_data_set_made_in_python_is_trained_on_again_in_python() -> None:
    """`--data mine` would be refused: no data set is known by that name."""
    said = 'tenfold.train(tenfold.find_recipe("recipe.json"), dataset, Path("again"), seed=3)'
    assert reproduction(FAST89, 3, "mine", None, 0.01) == said


def test_the_commands_of_a_page_can_be_pasted(tmp_path: Path) -> None:
    """They named the folder without its path, and a recipe.json that is in the run directory."""
    origin = Origin(str(tmp_path / "photos" / "my pets"), "0", 32, "stretch", labels=str(tmp_path / "photos" / "a.csv"))
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    own = replace(FAST89, name="mine")
    results = {"run": "runs/first", "seed": 3}
    for moved, place in ((run, ""), (run.rename(tmp_path / "runs" / "second"), "../")):
        data = SimpleNamespace(name="my pets/", origin=origin, corrections=None)
        kept: Any = SimpleNamespace(path=moved, recipe=own, scored=False, env={})
        known: Any = Known(kept, data, None, results)  # type: ignore[arg-type]
        recipe = f"{'second' if place else 'runs/first'}/recipe.json"
        assert _command(known) == (
            f"tenfold train --recipe {recipe} --data '{place}photos/my pets' --seed 3 --size 32 --resize stretch "
            f"--labels {place}photos/a.csv"
        )
        assert "--corrections corrections.csv" in _command(known, Path("corrections.csv"))
        assert _reproduce_note(known).endswith(f"this run is {Path(recipe).parent}: its paths begin there.")


def test_the_command_has_the_target_error_that_was_asked_for() -> None:
    """Without it, the run that it trains has another threshold."""
    recipe = FAST89.with_val_size(500)
    said = "tenfold train --recipe fast89 --data cifar10 --seed 3 --val-size 500 --target-error 0.05"
    assert reproduction(recipe, 3, "cifar10", None, 0.05) == said
    said = "tenfold train --recipe recipe.json --data pets/ --seed 3 --target-error 0.05 --size 32 --resize stretch"
    assert reproduction(replace(FAST89, name="mine"), 3, "pets/", Origin("/pets", "0", 32, "stretch"), 0.05) == said
    said = 'tenfold.train(tenfold.find_recipe("recipe.json"), dataset, Path("again"), seed=3, target_error=0.05)'
    assert reproduction(FAST89, 3, "mine", None, 0.05) == said


def test_facts_of_nested_json() -> None:
    value = {"a": {"b": 1234567}, "c": [{"d": 0.1}], "e": None, "f": [1, 2], "g": True}
    assert sections.facts(value) == [("a.b", "1,234,567"), ("c.1.d", "0.1"), ("f", "1; 2"), ("g", "yes")]


def test_no_curve_is_called_scaled_where_no_temperature_was_fitted() -> None:
    """All validation images were right: the legend said "after temperature scaling" of a temperature of 1."""
    logits = 3 * np.eye(4)[np.arange(40) % 4]
    labels = logits.argmax(1)
    wrong = np.where(np.arange(40) < 8, (labels + 1) % 4, labels)
    test: Any = SimpleNamespace(single=logits, labels=wrong)
    for val_labels, scaled in ((labels, False), (wrong, True)):
        results = {"calibration": calibrate(logits, val_labels).measure(logits, wrong).to_dict()}
        known: Any = Known(None, None, SimpleNamespace(test=test), results)  # type: ignore[arg-type]
        assert (known.reliability[1] is not None) == scaled


def test_validation_accuracy_says_what_is_with_test_time_views() -> None:
    """Beside "all validation images are classified correctly", which is without."""
    scores = {"test_accuracy": 0.9, "test_accuracy_single_view": 0.9, "test_accuracy_interval": (0.8, 0.95)}
    scores |= {"test_images": 100, "test_accuracy_top5": None, "test_cross_entropy": 0.3, "test_loss": 0.3, "ece": 0.01}
    for single, note in ((0.95, "; 95.00 % without TTA"), (0.94, ""), (None, "")):
        rows = sections.headline(scores | {"val_accuracy": 0.94, "val_accuracy_single_view": single})
        assert ("Validation accuracy", "94.00 %", f"on held-out training images{note}") in rows
    written: list[str] = []
    more = {"ece_single_view": 0.01, "val_accuracy": 0.94, "val_accuracy_single_view": 0.95}
    print_accuracy(scores | more, written.append)
    assert "validation accuracy 94.00% (95.00% without TTA)" in written
