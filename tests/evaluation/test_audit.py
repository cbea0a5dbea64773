"""The audit: its figures against plain arithmetic, its cache, its command and its section of the page."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import tenfold
from tenfold import cli
from tenfold.data.shapes import make_shapes
from tenfold.evaluation import audit
from tenfold.evaluation.audit import Subject, read_audit, run_audit
from tenfold.evaluation.findings import Audit, AuditParts, Corruptions, LabelIssues
from tenfold.evaluation.metrics import probabilities
from tenfold.evaluation.seed_variance import seed_variance
from tenfold.training.fingerprint import fingerprint
from tenfold.training.run import Run
from tests.support.drawn_run import CPU, hostile_dataset, make_drawn_run

SHAPES = make_shapes(train=800, test=60)
TRUTH = SHAPES.test.labels.astype(int)


def planted() -> Any:
    """The shapes, the first five test images training images, the second of them brightened; class names are markup."""
    images = SHAPES.test.images.copy()
    images[:5] = SHAPES.train.images[100:105]
    images[1] = np.minimum(images[1].astype(int) + 20, 255)
    labels = SHAPES.test.labels.copy()
    labels[:5] = SHAPES.train.labels[100:105]
    return replace(SHAPES, classes=hostile_dataset().classes, test=replace(SHAPES.test, images=images, labels=labels))


DATASET = planted()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Audit]:
    """A drawn run that was audited; out-of-fold predictions are drawn too, since training is tested elsewhere."""
    path = tmp_path_factory.mktemp("audit") / "run"
    torch.manual_seed(0)  # the weights
    evaluation = make_drawn_run(path, DATASET, report=False)
    subject = Subject(Run.open(path), DATASET, evaluation)
    rng = np.random.default_rng(0)
    predicted = rng.dirichlet(np.ones(10), 800) * 0.3 + 0.7 * np.eye(10)[DATASET.train.labels]
    predicted[7] = np.roll(predicted[7], 1)
    with mock.patch("tenfold.evaluation.labels.predict_out_of_fold", lambda *_: predicted):
        found, new = run_audit(subject, CPU)
    assert new
    return subject, found


def test_accuracy_without_duplicates_is_counted(made: tuple[Subject, Audit]) -> None:
    subject, audited = made
    duplicates = audited.duplicates
    found = {pair.test: pair for pair in duplicates.pairs}
    assert all(found[n].train == 100 + n and found[n].kind == "duplicate" for n in range(5))
    right = subject.evaluation.logits.argmax(1) == DATASET.test.labels
    others = [n for n in range(60) if n not in found]
    assert duplicates.accuracy == pytest.approx(right.mean())
    assert duplicates.accuracy_without == pytest.approx(right[others].mean())
    assert duplicates.accuracy_on_duplicates == pytest.approx(right[list(found)].mean())
    assert duplicates.count == len(found) < 60 and duplicates.published_share is None


def test_corruptions_are_scored_cell_by_cell(made: tuple[Subject, Audit]) -> None:
    subject, audited = made
    table = audited.corruptions
    cells = np.array(list(table.accuracy.values()))
    assert cells.shape == (15, 5) and table.images == 60
    assert table.mean_accuracy == pytest.approx(cells.mean())
    assert table.by_severity == pytest.approx(cells.mean(axis=0))
    model = subject.run.load_model(CPU)
    seen = audit.corrupt(DATASET.test.images, "fog", 4)
    logits = model.network(model.normalization.normalize(torch.from_numpy(seen))).detach().numpy()
    assert table.accuracy["fog"][3] == pytest.approx((logits.argmax(1) == DATASET.test.labels).mean())


def test_suspected_labels_are_listed(made: tuple[Subject, Audit]) -> None:
    subject, audited = made
    labels = audited.labels
    assert labels.missing is None and labels.train and labels.test and labels.train.issues[0].index == 7
    rows = list(csv.DictReader((subject.run.path / "label_issues.csv").read_text().splitlines()))
    counts = {"train": labels.train.suspected, "test": labels.test.suspected}
    assert {name: sum(row["split"] == name for row in rows) for name in counts} == counts
    given = DATASET.classes[DATASET.train.labels[7]]
    assert (rows[0]["index"], rows[0]["given"]) == ("7", given) != rows[0]["suspected"]


def test_the_surest_mistakes_are_explained(made: tuple[Subject, Audit]) -> None:
    subject, audited = made
    shares = probabilities(subject.evaluation.logits)
    wrong = [n for n in np.argsort(-shares.max(1)) if shares[n].argmax() != DATASET.test.labels[n]]
    found = audited.saliency.images
    assert [image.index for image in found] == wrong[:6]
    assert {overlay.shape for image in found for overlay in image.images} == {(32, 32, 3)}


def test_an_audit_is_printed_on_one_line_and_is_the_json_that_the_run_keeps(made: tuple[Subject, Audit]) -> None:
    subject, audited = made
    words = f"{audited.duplicates.count} duplicates, {100 * audited.corruptions.mean_accuracy:.1f} % accuracy on"
    assert repr(audited).startswith(f"Audit({words} corrupted images, ") and repr(audited).endswith(" label issues)")
    assert max(len(repr(getattr(audited, name))) for name in ("duplicates", "corruptions", "labels", "saliency")) < 300
    found = json.loads(json.dumps(audited.to_dict(), allow_nan=False))
    assert list(found) == ["duplicates", "corruptions", "labels", "saliency", "seed_variance"]
    for name in ("duplicates", "corruptions", "labels", "saliency"):
        assert json.loads((subject.run.path / "audit" / f"{name}.json").read_text())["value"] == found[name]
    assert found["seed_variance"] == {"missing": "this run is not part of a bench: tenfold bench trains several"}
    assert found["saliency"]["images"][0].keys() == {"index", "agreement", "overlays", "label", "probability"}
    assert found["duplicates"]["pairs"][0].keys() == {"test", "train", "kind", "score", "mirrored"}
    assert list(found["labels"]) == ["train", "test", "missing"]


def test_what_is_kept_is_used_again_until_the_run_changes(made: tuple[Subject, Audit]) -> None:
    subject, audited = made
    subject.run.verify()
    assert read_audit(subject) == AuditParts(**vars(audited))
    with mock.patch.object(audit, "_labels", lambda *_: LabelIssues(None, None, "computed again")):
        again, new = run_audit(subject, CPU)
        assert not new and again == audited
        changed = replace(DATASET, train=DATASET.train[:-1])
        assert read_audit(replace(subject, dataset=changed)) is None
        path = subject.run.path / "audit" / "labels.json"
        content = path.read_bytes()
        path.write_bytes(content.replace(b"suspected", b"inspected"))  # not what the manifest says
        mended, new = run_audit(subject, CPU)
    assert new and mended.labels.missing == "computed again" and mended.corruptions == audited.corruptions
    subject.run.rewrite_in_manifest({"audit/labels.json": content})


def test_the_list_of_labels_is_written_again(made: tuple[Subject, Audit]) -> None:
    subject, audited = made
    path = subject.run.path / "label_issues.csv"
    content = path.read_bytes()
    for change in (path.unlink, lambda: path.write_bytes(content + b"by hand")):
        change()
        assert run_audit(subject, CPU) == (audited, False) and path.read_bytes() == content
    subject.run.verify()


def test_a_damaged_part_is_named(made: tuple[Subject, Audit], capsys: pytest.CaptureFixture[str]) -> None:
    path = made[0].run.path / "audit" / "saliency.json"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    found = read_audit(made[0])
    assert found and found.saliency is None and found.duplicates == made[1].duplicates
    assert f"{path} is damaged: tenfold audit {made[0].run.path} writes it again" in capsys.readouterr().err
    path.write_bytes(content)


def test_parts_that_an_earlier_version_kept_are_read(made: tuple[Subject, Audit], tmp_path: Path) -> None:
    """They were in `honesty/`, and some names were others."""
    subject, audited = made
    run = Run.open(Path(shutil.copytree(subject.run.path, tmp_path / "old")))
    shutil.copytree(run.path / "audit", tmp_path / "kept")
    shutil.rmtree(run.path / "audit")
    renamed = {"saliency": ("maps", "overlays", "pictures"), "labels": ("labels", "agreement", "judges_accuracy")}
    renamed |= {"duplicates": ("duplicates", "accuracy_on_duplicates", "accuracy_on_copies")}
    for name, (old, key, old_key) in renamed.items():
        text = (tmp_path / "kept" / f"{name}.json").read_text()
        assert f'"{key}"' in text
        run.rewrite_in_manifest({f"honesty/{old}.json": text.replace(f'"{key}"', f'"{old_key}"')})
    found = read_audit(replace(subject, run=run))
    assert found and all(getattr(found, name) == getattr(audited, name) for name in renamed)


def test_more_images_a_cell_are_computed_and_then_kept(made: tuple[Subject, Audit]) -> None:
    subject, audited = made
    fewer = replace(audited, corruptions=replace(audited.corruptions, images=59))
    again = Corruptions(60, 0.5, 0.25, (), {})
    with mock.patch.object(audit, "_corruptions", lambda *_: again):
        assert not run_audit(subject, CPU, full=True)[1]  # there are no more than 60
        with mock.patch.object(audit, "read_audit", lambda _: fewer):
            assert run_audit(subject, CPU, full=True)[0].corruptions == again
    audit._keep(subject, "corruptions", audited.corruptions)


def test_seed_variance_by_hand(made: tuple[Subject, Audit], tmp_path: Path) -> None:
    """Of 80, 82 and 84 %: std 2 points; Student's t for 2 degrees of freedom is 4.303, times √2 · 2 is 12.17 points."""
    run = made[0].run
    assert "not part of a bench" in str(seed_variance(run).missing)
    (tmp_path / "bench.json").write_text("{}")
    for seed, share in enumerate((0.80, 0.82, 0.84)):
        path = Path(shutil.copytree(run.path, tmp_path / f"drawn-{seed}"))
        if seed == 1:
            assert "no other finished run" in str(seed_variance(Run.open(path)).missing)
        results = json.loads((path / "results.json").read_text()) | {"test_accuracy": share, "total_seconds": 1.0}
        (path / "results.json").write_text(json.dumps(results))
        env = json.loads((path / "env.json").read_text()) | {"started": "2026-01-01T00:00:00+00:00", "seed": seed}
        (path / "env.json").write_text(json.dumps(env))
    shutil.copytree(tmp_path / "drawn-2", tmp_path / "the same again")
    found = seed_variance(Run.open(tmp_path / "drawn-0"))
    assert (found.n, found.mean, found.std) == (3, pytest.approx(0.82), pytest.approx(0.02))
    assert found.real_difference == pytest.approx(0.1217, abs=1e-4)
    assert list(found.to_dict()) == ["missing", "n", "mean", "std", "real_difference"]
    env = json.loads((tmp_path / "drawn-2" / "env.json").read_text()) | {"data_sha256": "f" * 64}
    for name in ("drawn-2", "the same again"):  # on other data of the same name: no other draw
        (tmp_path / name / "env.json").write_text(json.dumps(env))
    assert seed_variance(Run.open(tmp_path / "drawn-0")).n == 2


def test_a_class_too_small_to_predict_is_said(made: tuple[Subject, Audit]) -> None:
    subject, _ = made
    few = np.flatnonzero(DATASET.train.labels != 3)
    lonely = replace(DATASET, train=DATASET.train[np.append(few, np.flatnonzero(DATASET.train.labels == 3)[:1])])
    part = audit._labels(replace(subject, dataset=lonely), CPU)
    assert "a class has fewer training images than cross-validation needs: 1 of 2" in str(part.missing)
    assert part.train is None and part.test and list(part.to_dict()) == ["test", "missing"]
    one = DATASET.test[DATASET.test.labels == 3]
    logits = subject.evaluation.logits[DATASET.test.labels == 3]
    evaluation = mock.Mock(logits=logits, labels=one.labels)
    part = audit._labels(replace(subject, dataset=replace(lonely, test=one), evaluation=evaluation), CPU)
    assert "test labels were not checked: all labels are the same" in str(part.missing) and part.test is None
    audit._write_issues(subject, made[1].labels)


@pytest.mark.slow
def test_the_command_and_the_page(
    made: tuple[Subject, Audit],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(made[0].run.path, tmp_path / "run"))
    monkeypatch.setattr("tenfold.training.provenance.load_named", lambda name: DATASET)
    monkeypatch.setattr("tenfold.evaluation.evaluate.load_or_compute", lambda *a: _outputs(made[0], a[-1]))
    _invoke(monkeypatch, "report", run)
    page = (run / "report.html").read_text()
    assert "Train–test duplicates" in page and "Not audited yet" not in page
    assert "<img" not in page and "<script>alert" not in page and " onmouseover='" not in page
    assert page.count('class="image more ') >= 2 * 5 + 16 + 3 * 6
    assert f"{100 * made[1].corruptions.mean_accuracy:.1f} %, against" in page
    capsys.readouterr()
    before = (run / "report.html").stat().st_mtime_ns
    assert _invoke(monkeypatch, "audit", run, "--json") == 0
    said = json.loads(capsys.readouterr().out)["audit"]
    assert said == made[1].to_dict() and (run / "report.html").stat().st_mtime_ns == before  # nothing was new
    (run / "report.html").unlink()  # as an interruption before it was written leaves it
    assert _invoke(monkeypatch, "audit", run) == 0
    assert "duplicate a training image" in capsys.readouterr().out
    assert "Train–test duplicates" in (run / "report.html").read_text()
    shutil.rmtree(run / "audit")
    _invoke(monkeypatch, "report", run)
    assert "tenfold audit RUN" in (run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["report", "audit"])
def test_the_runs_own_data_are_digested_once(made: tuple[Subject, Audit], tmp_path: Path, method: str) -> None:
    """They were digested three times, and by an audit that writes the report twice more, whole."""
    run = tenfold.Run.open(shutil.copytree(made[0].run.path, tmp_path / "run"))
    if method == "audit":
        (run.path / "report.html").unlink(missing_ok=True)
    with (
        mock.patch("tenfold.training.provenance.load_named", lambda name: DATASET),
        mock.patch("tenfold.evaluation.evaluate.load_or_compute", lambda *a: _outputs(made[0], a[-1])),
        mock.patch("tenfold.training.fingerprint.fingerprint", wraps=fingerprint) as taken,
        mock.patch.object(audit, "_digest", wraps=audit._digest) as digested,
    ):
        getattr(run, method)(progress=False)
    assert (run.path / "report.html").is_file() and taken.call_count == 1
    assert digested.call_count == 2, "of the training and the test images"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("evaluate", "--full"), "No such option: --full"),
        (("audit", "--data", "shapes"), "not on a folder: leave --data out"),
    ],
)
def test_options_that_do_not_go_together(
    made: tuple[Subject, Audit],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    assert _invoke(monkeypatch, options[0], made[0].run.path, *options[1:]) == 2
    assert said in capsys.readouterr().err


def _outputs(subject: Subject, name: str) -> Any:
    found = subject.evaluation.test if name == "test" else subject.evaluation.val
    assert found
    return replace(found, fresh=False)


def _invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["tenfold", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code if isinstance(ended.value.code, int) else 0
