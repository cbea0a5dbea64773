"""A model file → its card: what it is, what it was trained on and how, what it scores, what it is not for.

The idea is that of Mitchell et al., "Model Cards for Model Reporting" (2019). Scores are measured on the file itself,
as long as the run's test images are there.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.console import percent, printable
from tenfold.data.dataset import AppliedCorrections, Dataset, Split
from tenfold.data.unknown import COUNT, make_unknown
from tenfold.evaluation.detection import auroc, exact_interval, fpr_at_95
from tenfold.evaluation.metrics import expected_calibration_error, wilson_interval
from tenfold.files import write_text
from tenfold.serving.model_file import ModelMetadata
from tenfold.serving.predictor import Outputs, Predictor, open_model
from tenfold.training.provenance import FoundData, find_data, origin_of
from tenfold.training.recipe import Recipe
from tenfold.training.reproduction import KEPT_CORRECTIONS, format_stop, reproduction
from tenfold.training.run import STOPPED, Run
from tenfold.training.split_file import count_held_out
from tenfold.training.target_error import target_error_of

_TITLE = "# Model card: "


def has_card(file: Path) -> bool:
    """Whether a card of ours lies beside `file`."""
    path = file.with_suffix(".md")
    return path.is_file() and path.read_text(errors="replace").startswith(_TITLE)


def write_card(run: Run, file: Path, data: Dataset | Path | FoundData | None = None) -> Path:
    """Write the card of a model that was exported from `run`, beside it, as Markdown; return its path.

    In the run directory it is sealed. data: what the run was trained on, a data set or a folder; by default it is
    found. Where it is not there, or is other data, the card has the run's own score, and says so. Raises `BusyError`
    for a run in use, `StorageError`, and `DataError` for `data` that does not fit the run.
    """
    classifier, found = open_model(file), find_data(run, data)
    own = found.dataset if found.own else None
    scores = _earlier_score(run)
    if own:
        outputs = classifier.infer(own.test.images)
        scores = _scores(classifier, outputs.probabilities, own.test) + _unknown(classifier, outputs)
    parts = [_what_it_is(classifier, file), _training(run), scores, _limits(classifier.about)]
    path = file.with_suffix(".md")
    if path.parent.resolve() != run.path.resolve():
        write_text(path, "\n".join(parts))
        return path
    with run.locked():
        run.rewrite_in_manifest({path.name: "\n".join(parts)})
    return path


def _escaped(name: str) -> str:
    """A name as Markdown that shows it as it is: on one line, with no mark-up, HTML, link or table cell in it."""
    return re.sub(r"([\\`*_\[\]<>{}|~&$#!:@]|(?<=www)\.)", r"\\\1", printable(name))


def _code(name: str) -> str:
    """A name as a code span, also where it has backticks in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", name)), default=0))
    space = " " if "`" in name else ""
    return f"{fence}{space}{printable(name)}{space}{fence}"


def _what_it_is(classifier: Predictor, file: Path) -> str:
    about, size = classifier.about, classifier.about.size
    kind = "int8 convolutions except the first" if about.quantized else "float32"
    second = " Output `distance`: float32 N." if about.distance else ""
    return f"""{_TITLE}{_escaped(file.name)}
Made by `tenfold export --card`.

## What it is
A convolutional network that tells {len(about.classes)} classes apart: {", ".join(map(_escaped, about.classes))}.
ONNX, {file.stat().st_size / 1e6:.1f} MB, {kind}. Input `images`: uint8 N×{size}×{size}×3, RGB, of images of another
size as `{about.resize}` brings them to it. Output `probabilities`: float32 N×{len(about.classes)}.{second}
Normalisation and temperature ({about.temperature:.3f}) are inside. SHA-256 that it carries: `{classifier.digest}`.
"""


def _training(run: Run) -> str:
    env, recipe = run.env, run.recipe
    origin = origin_of(run, env) if "folder" in env else None
    corrected = _corrected(env.get("corrections"))
    corrections = KEPT_CORRECTIONS if corrected else None
    command = reproduction(recipe, env["seed"], env["data"], origin, target_error_of(run), corrections)
    language, prompt = ("console", "$ ") if command.startswith("tenfold train") else ("python", "")
    versions = ", ".join(f"{name} {number}" for name, number in env.get("versions", {}).items())
    held_out = "no training images held out: temperature and threshold are not fitted"
    if recipe.val_size:
        held_out = f"{count_held_out(run):,} training images held out for temperature and threshold"
    stop = format_stop(run)
    return f"""## How it was made
```{language}
{prompt}{printable(command)}
```
{f"{stop}{chr(10)}" if stop else ""}Data: {_code(env["data"])}, {held_out}.
{corrected}{_started_from(recipe)}{env.get(STOPPED, recipe.trained_epochs):g} epochs in {env["dtype"]} ({versions}).
"""


def _corrected(noted: dict[str, Any] | None) -> str:
    if not noted:
        return ""
    return "".join(f"{s[0].upper()}{s[1:]}.\n" for s in AppliedCorrections.from_dict(noted).sentences())


def _started_from(recipe: Recipe) -> str:
    weights = recipe.network.pretrained
    if weights is None:
        return ""
    tuned = "then fine-tuned" if recipe.fine_tune != "off" else "of which only the last layer was trained"
    return (
        f"Pretrained weights: {weights.source}; trained on {weights.trained_on}; licence {weights.license}; {tuned}.\n"
    )


def _scores(classifier: Predictor, probabilities: np.ndarray, test: Split) -> str:
    right = probabilities.argmax(1) == test.labels
    low, high = wilson_interval(int(right.sum()), len(right))
    error = expected_calibration_error(np.log(probabilities.clip(1e-12)), test.labels)
    names = classifier.classes
    rows = [
        (
            _escaped(name),
            percent(right[test.labels == label].mean(), 1, "%"),
            _taken_for(probabilities, test, label, names),
        )
        for label, name in enumerate(names)
        if (test.labels == label).any()
    ]
    table, accuracy = "\n".join(f"| {' | '.join(row)} |" for row in rows), percent(right.mean(), 2, "%")
    return f"""## Scores
All of them were measured on this very file.
On {len(test):,} test images, one view of each: {accuracy} right (95 % interval {low:.1%} to {high:.1%}),
expected calibration error {error:.2%}. {_threshold(classifier.about, probabilities, right)}

| class | found | most often taken for |
|---|---|---|
{table}
"""


def _earlier_score(run: Run) -> str:
    accuracy = run.require_scores().get("test_accuracy_single_view") if run.scored else None
    measured = "It was not measured." if accuracy is None else f"When it was trained, {accuracy:.2%} were right."
    return f"""## Scores
Share of test images that are right, one view of each. {measured}
The test images were not there when this card was written, so that nothing was measured on this very file.
"""


def _taken_for(probabilities: np.ndarray, test: Split, label: int, names: tuple[str, ...]) -> str:
    predicted = np.bincount(probabilities[test.labels == label].argmax(1), minlength=len(names))
    predicted[label] = 0
    return _escaped(names[predicted.argmax()]) if predicted.any() else "–"


def _threshold(about: ModelMetadata, probabilities: np.ndarray, right: np.ndarray) -> str:
    if about.threshold is None:
        return "It has no threshold, so it cannot say that it does not know."
    sure = probabilities.max(1) >= about.threshold
    wrong = 1 - right[sure].mean() if sure.any() else 0.0
    return (
        f"Its threshold is {about.threshold:.3f}: it then answers {sure.mean():.1%} of them, "
        f"and {wrong:.2%} of these answers are wrong."
    )


def _unknown(classifier: Predictor, known: Outputs) -> str:
    """How well images of no class are separated from the test images; nothing for a file without a distance."""
    about = classifier.about
    if about.distance is None or known.distance is None:
        return ""
    rows = [
        (kind, *_separation(known, classifier.infer(images), about.distance_threshold))
        for kind, images in make_unknown(about.size, about.classes).items()
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""
## Unknown images
`distance` is the larger, the less an image is like the training images. {_distance_threshold(about, known.distance)}
Below, {COUNT} images of each kind, made by code, against the test images. AUROC: the probability that an unknown image
scores higher than a known one. FPR95: the share of unknown images that pass where 95 % of the known ones do.

| unknown images | AUROC by distance | FPR95 | AUROC by confidence | FPR95 | beyond the threshold |
|---|---|---|---|---|---|
{table}
"""


def _distance_threshold(about: ModelMetadata, distances: np.ndarray) -> str:
    found, threshold = about.distance or {}, about.distance_threshold
    if threshold is None:
        return f"It has no threshold: at least {found['images_needed']} validation images are needed."
    beyond = int((distances > threshold).sum())
    low, high = exact_interval(beyond, len(distances))
    return (
        f"Its threshold is\n{threshold:.3f}: {found['rejected']:,} of {found['images']:,} validation images are beyond "
        f"it, and {beyond / len(distances):.1%} of the test images\n(95 % interval {low:.1%} to {high:.1%}), to which "
        "`predict --reject` gives no label."
    )


def _separation(known: Outputs, unknown: Outputs, threshold: float | None) -> tuple[str, ...]:
    assert known.distance is not None and unknown.distance is not None
    scores = [(known.distance, unknown.distance), (-known.probabilities.max(1), -unknown.probabilities.max(1))]
    cells = [cell for pair in scores for cell in (f"{auroc(*pair):.3f}", percent(fpr_at_95(*pair), 1, "%"))]
    beyond = "–" if threshold is None else percent((unknown.distance > threshold).mean(), 1, "%")
    return (*cells, beyond)


def _limits(about: ModelMetadata) -> str:
    return f"""## Limits and intended use
- For trying things out, teaching, and as a baseline. Not for decisions about people, health or safety.
- It predicts one of its {len(about.classes)} classes for any image; `--reject` helps, but not every image of something
  else is noticed, least of all of what looks like one of its classes.
- It sees {about.size}×{about.size} pixels. Images taken or framed differently from its data are classified worse
  than the scores say, and so will rare kinds of each class.
- The scores are of one training run; another seed gives others. Test images that resemble training images raise them.
"""
