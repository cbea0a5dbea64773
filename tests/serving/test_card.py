"""Model cards, and the bundled model: that its card is its own, and that it is small and good."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tenfold.data import Dataset
from tenfold.data.unknown import make_unknown
from tenfold.evaluation.detection import auroc, fpr_at_95
from tenfold.serving.card import has_card, write_card
from tenfold.serving.export import pack
from tenfold.serving.predictor import BUNDLED, open_model
from tenfold.training.provenance import reload_dataset
from tenfold.training.run import Run

pytestmark = pytest.mark.slow


def test_a_card_says_what_is_true_of_the_file(run: Run, small: Path) -> None:
    """Every figure worked out again from the file's answers."""
    path = write_card(run, small)
    text, test, model = path.read_text(), reload_dataset(run).test, open_model(small)
    assert path == small.with_suffix(".md") and model.digest in text
    probabilities = model.predict(test.images)
    right = probabilities.argmax(1) == test.labels
    assert f"On 500 test images, one view of each: {right.mean():.2%} right" in text
    sure = probabilities.max(1) >= 0.6
    assert f"answers {sure.mean():.1%} of them, and {1 - right[sure].mean():.2%} of these" in text
    for label, name in enumerate(model.classes):
        (found,) = re.findall(rf"\| {name} \| ([\d.]+)%", text)
        assert float(found) == pytest.approx(100 * right[test.labels == label].mean(), abs=0.051)
    assert str(run.path) not in text and "\n\n\n" not in text


def test_a_card_says_how_well_unknown_images_are_noticed(run: Run, small: Path) -> None:
    """Worked out again from the file's answers; the fixture's threshold is 3."""
    text, model, test = write_card(run, small).read_text(), open_model(small), reload_dataset(run).test
    known = model.infer(test.images)
    assert known.distance is not None
    beyond = (known.distance > 3.0).mean()
    assert f"{beyond:.1%} of the test images" in text
    for kind, images in make_unknown(32, model.classes).items():
        others = model.infer(images)
        assert others.distance is not None
        cells = re.search(rf"\| {kind} \| ([\d.]+) \| ([\d.]+)% \| ([\d.]+) \| ([\d.]+)% \| ([\d.]+)%", text)
        assert cells is not None
        expected = [
            *(auroc(known.distance, others.distance), 100 * fpr_at_95(known.distance, others.distance)),
            auroc(-known.probabilities.max(1), -others.probabilities.max(1)),
        ]
        assert [float(cell) for cell in cells.groups()[:3]] == pytest.approx(expected, abs=0.051)
        assert float(cells[5]) == pytest.approx(100 * (others.distance > 3.0).mean(), abs=0.051)
    assert "| shapes |" not in text  # it was trained on them


def test_the_command_is_that_of_the_run(run: Run, small: Path) -> None:
    command = "tenfold train --recipe recipe.json --data shapes --seed 0"
    assert f"$ {command}\n```\nData: `shapes`, no training images held out" in write_card(run, small).read_text()


def test_a_card_is_known_by_its_title(run: Run, small: Path, tmp_path: Path) -> None:
    """So that an export beside an older card writes it anew, and leaves other notes alone."""
    file = tmp_path / "m.onnx"
    file.write_bytes(small.read_bytes())
    assert not has_card(file)
    file.with_suffix(".md").write_text("# my own notes\n")
    assert not has_card(file)
    write_card(run, file)
    assert has_card(file)


def test_a_card_in_the_run_is_sealed(run: Run, model: Path) -> None:
    card = write_card(run, model)
    assert run.digest(card.name) == hashlib.sha256(card.read_bytes()).hexdigest()
    run.verify(card.name)


def test_the_model_that_comes_along_is_small_and_its_card_its_own() -> None:
    model, card = open_model(BUNDLED), BUNDLED.with_suffix(".md").read_text()
    assert BUNDLED.stat().st_size <= 8_000_000
    assert model.digest in card and model.about.made_with["data"] == "cifar10"
    (right,) = re.findall(r"([\d.]+)% right", card)
    assert float(right) / 100 == pytest.approx(model.about.accuracy, abs=0.001)  # which runtime it was may show


def test_the_model_that_comes_along_knows_what_it_does_not_know(cifar10: Dataset) -> None:
    """Shapes, digits (drawn, and scikit-learn's) and noise: AUROC of at least 0.95, and better than the confidence.

    Of known images it rejects about as many as its card says.
    """
    from sklearn.datasets import load_digits

    model, unknown = open_model(BUNDLED), make_unknown(32, cifar10.classes)
    digits = (load_digits().images[:500] * 255 / 16).round().astype(np.uint8).repeat(4, 1).repeat(4, 2)
    unknown["handwritten digits"] = np.repeat(digits[..., None], 3, axis=3)
    known = model.infer(np.array(cifar10.test.images[:2000]))
    assert known.distance is not None and model.about.distance_threshold is not None
    assert (known.distance > model.about.distance_threshold).mean() == pytest.approx(0.05, abs=0.02)
    for kind, images in unknown.items():
        others = model.infer(images)
        assert others.distance is not None
        found = auroc(known.distance, others.distance)
        assert found >= 0.95, kind
        assert found > auroc(-known.probabilities.max(1), -others.probabilities.max(1)), kind


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_model_that_comes_along_knows_cifar10(cifar10: Dataset, runtime: str) -> None:
    """On the first 1,000 test images, within three standard errors of what it says of itself."""
    model = open_model(BUNDLED, runtime)
    assert model.classes == cifar10.classes
    right = model.predict(np.array(cifar10.test.images[:1000])).argmax(1) == cifar10.test.labels[:1000]
    assert right.mean() == pytest.approx(model.about.accuracy, abs=0.03)


def test_names_are_shown_as_they_are(run: Run, model: Path, tmp_path: Path) -> None:
    """A renderer of Markdown unescapes what was escaped; until then no name is mark-up, HTML or a further cell."""
    names = (
        "a|b",
        "<b>x</b>",
        "[x](http://y.z)",
        "line\nbreak",
        "`code`",
        "*a_b*",
        "back\\slash",
        "&lt;",
        "猫",
        "www.a.b",
    )
    about = replace(open_model(model).about, classes=names)
    (tmp_path / "x.onnx").write_bytes(pack(onnx.load(model), about))
    text = write_card(run, tmp_path / "x.onnx").read_text()
    (listed,) = re.findall(r"tells 10 classes apart: (.*)\.$", text, re.MULTILINE)
    assert listed.split(", ") == [
        *(r"a\|b", r"\<b\>x\</b\>", r"\[x\](http\://y.z)", r"line\\nbreak", r"\`code\`"),
        *(r"\*a\_b\*", r"back\\slash", r"\&lt;", "猫", r"www\.a.b"),
    ]
    scores, _, _ = text.partition("## Unknown images")
    rows = [line for line in scores.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10 and all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
