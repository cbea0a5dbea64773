"""`tenfold predict`: answers that are the model's, in every form, from hostile folders, and through kills."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tenfold.console import printable
from tenfold.errors import BusyError, DataError, StorageError, Terminated, UsageError
from tenfold.serving.export import pack
from tenfold.serving.inputs import find
from tenfold.serving.model_file import ModelMetadata, find_in_run
from tenfold.serving.output_formats import make_output_format
from tenfold.serving.predict import PredictionResult, Thresholds, answer, find_thresholds, missing_threshold
from tenfold.serving.predictor import open_model
from tenfold.serving.resumable import ResumableWriter, skip_done
from tenfold.training.provenance import reload_dataset
from tenfold.training.run import Run
from tests.support.forks import run_command, run_program
from tests.support.process import Ended, Invoke
from tests.support.waiting import LONG

REQUEST = {"model": "m", "form": "json"}


@pytest.fixture(scope="module")
def photos(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 test images as files, every 20th of them damaged."""
    folder = tmp_path_factory.mktemp("photos")
    for index, pixels in enumerate(reload_dataset(run).test.images[:60]):
        path = folder / f"{index:02}.png"
        Image.fromarray(pixels).save(path)
        if index % 20 == 7:
            path.write_bytes(path.read_bytes()[:1000])
    return folder


BAD = (7, 27, 47)


@pytest.fixture(scope="module")
def expected(run: Run, model: Path) -> list[tuple[str, float]]:
    """Label and probability of each image, in one batch."""
    classifier = open_model(model)
    rows = classifier.predict(reload_dataset(run).test.images[:60])
    return [(classifier.classes[row.argmax()], float(row.max())) for row in rows]


def predict(invoke: Invoke, model: Path, *words: str | Path, **keywords: object) -> Ended:
    return invoke("predict", "--model", model, *words, **keywords)


# --- forms -----------------------------------------------------------------------------------------------------------


def test_json_lines_say_what_the_model_says(
    invoke: Invoke, model: Path, photos: Path, expected: list[tuple[str, float]]
) -> None:
    result = predict(invoke, model, photos, "--json", "--top", "3")
    reply = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 8
    assert [line["path"] for line in reply] == [str(photos / f"{index:02}.png") for index in range(60)]
    for index, line in enumerate(reply):
        if index in BAD:
            assert set(line) == {"path", "error"} and "cut short" in line["error"]
            continue
        assert (line["label"], line["probability"]) == (expected[index][0], pytest.approx(expected[index][1], abs=1e-5))
        assert line["top"][0] == {"label": line["label"], "probability": line["probability"]}
        assert len(line["top"]) == 3 and line["top"] == sorted(line["top"], key=lambda guess: -guess["probability"])
    *bad, last = result.stderr.splitlines()
    assert [line.partition(": ")[0] for line in bad] == [str(photos / f"{index:02}.png") for index in BAD]
    assert last == "tenfold: 3 of 60 images could not be read"


def test_csv_and_table(invoke: Invoke, model: Path, photos: Path, expected: list[tuple[str, float]]) -> None:
    one, bad = photos / "00.png", photos / "07.png"
    result = predict(invoke, model, one, bad, "--csv", "--top", "2")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    columns = ["path", "label", "probability", "label_2", "probability_2", "distance", "rejected_by", "error"]
    assert list(rows[0]) == columns and rows[0]["rejected_by"] == ""
    distances = open_model(model).infer(open_model(model).decode(one.read_bytes())[None]).distance
    assert distances is not None and float(rows[0]["distance"]) == pytest.approx(distances[0], rel=1e-4)
    assert (rows[0]["path"], rows[0]["label"]) == (str(one), expected[0][0])
    assert float(rows[0]["probability"]) == pytest.approx(expected[0][1], abs=1e-5) and rows[0]["error"] == ""
    assert (rows[1]["label"], rows[1]["distance"]) == ("", "") and "cut short" in rows[1]["error"]
    header, row = predict(invoke, model, one).stdout.splitlines()
    assert header.split() == ["prediction", "confidence", "path"]
    assert row.split() == [expected[0][0], f"{expected[0][1]:.2%}", str(one)]


def test_more_guesses_than_classes_are_all_of_them(invoke: Invoke, model: Path, photos: Path) -> None:
    (line,) = predict(invoke, model, photos / "00.png", "--json", "--top", "99").stdout.splitlines()
    top = json.loads(line)["top"]
    assert len(top) == 10 and sum(guess["probability"] for guess in top) == pytest.approx(1, abs=1e-4)


def test_what_is_unsure_is_none_of_these(model: Path, photos: Path) -> None:
    """The thresholds of the fixture are 0.6 and 3; the best guess stays in the answer."""
    classifier = open_model(model)
    (plain,) = answer(classifier, find([str(photos / "0[0-6].png")]))
    (judged,) = answer(classifier, find([str(photos / "0[0-6].png")]), reject=True)
    assert [line.predictions for line in judged] == [line.predictions for line in plain]
    for line in judged:
        reasons = {"confidence": line.predictions[0][1] < 0.6, "distance": line.distance > 3.0}
        assert line.rejected_by == tuple(reason for reason, holds in reasons.items() if holds)
    assert not any(line.rejected for line in plain)
    unsure = PredictionResult("a.png", (("cat", 0.5), ("dog", 0.4)), rejected_by=("confidence",))
    assert json.loads(make_output_format("json", ("cat", "dog"), 1).write(unsure))["label"] is None
    assert json.loads(make_output_format("json", ("cat", "dog"), 1).write(unsure))["top"][0]["label"] == "cat"
    assert make_output_format("csv", ("cat", "dog"), 2).write(unsure) == "a.png,none of these,0.500000,dog,0.400000,"
    row = make_output_format("table", ("cat", "dog"), 2).write(unsure)
    assert row == "none of these      50.00%  dog                40.00%  a.png"
    unknown = replace(unsure, distance=4.25, rejected_by=("confidence", "distance"))
    line = make_output_format("csv", ("cat", "dog"), 2, has_distance=True).write(unknown)
    assert line == "a.png,none of these,0.500000,dog,0.400000,4.25,confidence distance,"
    line = make_output_format("json", ("cat", "dog"), 2, has_distance=True).write(unknown)
    assert json.loads(line)["distance"] == 4.25 and json.loads(line)["rejected_by"] == ["confidence", "distance"]


def test_either_threshold_is_enough_to_reject_by() -> None:
    """Which one an image is beyond is said; what is equal to a threshold is kept."""
    both = Thresholds(confidence=0.5, distance=2.0)
    assert [both.reasons(*pair) for pair in ((0.5, 2.0), (0.4, 2.0), (0.5, 2.5), (0.4, 2.5))] == [
        *((), ("confidence",), ("distance",), ("confidence", "distance")),
    ]
    assert Thresholds(confidence=0.5).reasons(0.4, 9.0) == ("confidence",)
    assert Thresholds(distance=2.0).reasons(0.0, 3.0) == ("distance",)
    assert Thresholds(distance=2.0).reasons(0.0, None) == () and not Thresholds() and both


@pytest.mark.parametrize(
    ("threshold", "distance", "said"),
    [
        (0.5, 2.0, None),
        (None, 2.0, "rejected by distance only, not by confidence: it was trained without validation images"),
        (0.5, None, "by confidence only, not by distance: that needs at least 59 validation images .* and it had 20"),
    ],
)
def test_which_threshold_is_missing_is_said(threshold: float | None, distance: float | None, said: str | None) -> None:
    found = {"threshold": distance, "images_needed": 59, "images": 20}
    about = ModelMetadata(("a", "b"), 32, "stretch", 1.0, threshold, None, False, {}, distance=found)
    missing = missing_threshold(about)
    assert missing is None if said is None else re.search(said, missing or "")
    assert find_thresholds(about, reject=True) == Thresholds(threshold, distance)
    assert missing_threshold(replace(about, threshold=0.5, distance=None)) is None  # an older file


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_hostile_names_are_one_harmless_line(form: str) -> None:
    """Newlines, terminal escapes (of eight bits too), right-to-left marks, bytes that are no text, quotes, HTML."""
    name = 'a\nb\r\x1b[31m\x9b2J\u202e\udcff",<script>.png'
    classes = ("x\x1b[0m\n", "y")
    for line in (PredictionResult(name, ((classes[0], 0.9),)), PredictionResult(name, error="bad\n\x1b")):
        written = make_output_format(form, classes, 1).write(line)
        assert written.isprintable() and written.encode()
    if form != "table":
        path, bad = make_output_format(form, classes, 1).read(written)
        assert bad and printable(path) == printable(name)


def test_hostile_files_in_a_real_folder(invoke: Invoke, model: Path, photos: Path, tmp_path: Path) -> None:
    name = b"a\n\x1b[31m\xff.png"
    (tmp_path / os.fsdecode(name)).write_bytes((photos / "00.png").read_bytes())
    result = predict(invoke, model, tmp_path, "--json")
    assert result.returncode == 0 and result.stderr == ""
    assert os.fsencode(json.loads(result.stdout)["path"]) == bytes(tmp_path) + b"/" + name


# --- standard input, and what is wrong -------------------------------------------------------------------------------


@pytest.mark.slow
def test_standard_input(model: Path, photos: Path, expected: list[tuple[str, float]]) -> None:
    words = [sys.executable, "-m", "tenfold", "predict", "--model", str(model), "-", "--json"]
    for content, name in (((photos / "01.png").read_bytes(), "-"), (bytes(photos / "01.png"), str(photos / "01.png"))):
        result = subprocess.run(words, input=content, capture_output=True)
        reply = json.loads(result.stdout)
        assert (reply["path"], reply["label"]) == (name, expected[1][0]) and result.returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["absent.png"], 8, "absent.png: cannot be read: No such file or directory"),
        (["empty"], 3, "tenfold: no images in empty"),
        (["-"], 3, "tenfold: no images in -"),
        (["x.png", "--json", "--csv"], 2, "--json and --csv exclude each other"),
        (["x.png", "--out", "answers.txt"], 2, "--out answers.txt: add --json or --csv, or name it .jsonl or .csv"),
        (["x.png", "--out", "taken.csv"], 2, "taken.csv exists: choose another --out"),
        (["x.png", "--top", "0"], 2, "--top"),
        (["x.png", "--model", "absent.onnx"], 4, "absent.onnx: cannot be read (No such file or directory)"),
        (["x.png", "--model", "x.pkl"], 4, "x.pkl is a pickle or an archive, which is never opened"),
        (["x.png", "--model", "empty"], 4, "empty is not a run directory whose training has finished"),
        ([], 2, "Missing argument 'sources'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong(invoke: Invoke, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken.csv").write_text("mine")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04.")
    result = invoke("predict", *words, cwd=tmp_path)
    assert (result.returncode, result.stdout.count("\n") <= 2) == (code, True)
    assert said in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "taken.csv").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "taken.csv", "x.pkl"}


def test_a_model_without_threshold_rejects_nothing(invoke: Invoke, run: Run, photos: Path, tmp_path: Path) -> None:
    loaded = onnx.load(run.path / "model.onnx")
    about = replace(open_model(run.path / "model.onnx").about, threshold=None, distance=None)
    (tmp_path / "x.onnx").write_bytes(pack(loaded, about))
    result = predict(invoke, tmp_path / "x.onnx", photos, "--reject")
    assert (result.returncode, result.stdout) == (2, "")
    assert "this model has no threshold" in result.stderr
    result = predict(invoke, tmp_path / "x.onnx", photos, "--reject", "--out", tmp_path / "a.csv")
    assert result.returncode == 2 and [path.name for path in tmp_path.iterdir()] == ["x.onnx"]  # nothing was begun


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        (None, "it was trained without validation images (tenfold train --val-size N); or leave --reject out"),
        (
            {"target_error": 0.01, "confidence": 0.95, "images": 24, "images_needed": 597},
            "an error of at most 1 % needs at least 597 validation images (tenfold train --val-size N), and it had 24: "
            "tenfold evaluate RUN --target-error 0.5 allows more errors; or leave --reject out",
        ),
        (
            {"target_error": 0.05, "confidence": 0.95, "images": 5000, "images_needed": 117},
            "too many predictions on 5,000 validation images are wrong for an error of at most 5 %: "
            "tenfold evaluate RUN --target-error 0.1 allows more errors; or leave --reject out",
        ),
        (
            {"target_error": 0.01, "confidence": 0.95, "images": 24, "images_needed": 597, "reachable_error": 0.25},
            "an error of at most 1 % needs at least 597 validation images (tenfold train --val-size N), and it had 24: "
            "tenfold evaluate RUN --target-error 0.25 allows more errors; or leave --reject out",
        ),
        (
            {"target_error": 0.05, "confidence": 0.95, "images": 90, "images_needed": 117, "reachable_error": None},
            "an error of at most 5 % needs at least 117 validation images (tenfold train --val-size N), and it had 90; "
            "or leave --reject out",
        ),
        (
            {"target_error": 0.5, "confidence": 0.95, "images": 5000, "images_needed": 9},
            "too many predictions on 5,000 validation images are wrong for an error of at most 50 %; "
            "or leave --reject out",
        ),
    ],
)
def test_why_there_is_no_threshold_is_said(
    run: Run, tmp_path: Path, calibration: dict[str, float] | None, said: str
) -> None:
    """It said "without enough validation images", but not how many are needed, nor how many there were."""
    loaded = onnx.load(run.path / "model.onnx")
    about = replace(open_model(run.path / "model.onnx").about, threshold=None, calibration=calibration, distance=None)
    (tmp_path / "x.onnx").write_bytes(pack(loaded, about))
    with pytest.raises(UsageError) as refused:
        answer(open_model(tmp_path / "x.onnx"), [], reject=True)
    assert f"this model has no threshold: {said}" in str(refused.value)


def test_the_model_that_comes_along_answers_without_torch(photos: Path) -> None:
    """In a process where importing what an install without extras lacks is an error."""
    code = (
        "import sys\n"
        "lacking = ('torch', 'pandas', 'matplotlib', 'sklearn', 'scipy', 'safetensors', 'onnx', 'openvino', 'psutil')\n"
        "sys.modules.update(dict.fromkeys(lacking))\n"
        "sys.argv[1:] = ['predict', sys.argv[1], '--json']\n"
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name in lacking else found(name, *more)\n"
        "from tenfold.cli import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(photos / "00.png")], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["label"] in open_model().classes


# --- a run as the model ----------------------------------------------------------------------------------------------


def test_a_run_is_exported_once_and_then_used(
    invoke: Invoke, run: Run, photos: Path, tmp_path: Path, expected: list[tuple[str, float]]
) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    file = copy / "model.onnx"
    Run.open(copy).verify()
    one = photos / "00.png"
    before = file.stat()
    result = invoke("predict", one, "--model", copy, "--json")
    assert json.loads(result.stdout)["label"] == expected[0][0] and result.stderr == ""
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    # a temperature that was fitted since: the file is written anew
    results = Run.open(copy).require_scores()
    results["calibration"]["temperature"] = 5.0
    Run.open(copy).rewrite_in_manifest({"results.json": json.dumps(results)})
    result = invoke("predict", one, "--model", copy, "--json")
    assert "its model is written as ONNX" in result.stderr
    assert json.loads(result.stdout)["probability"] < 0.5 and open_model(file).about.temperature == 5.0
    Run.open(copy).verify()
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    result = invoke("predict", one, "--model", copy)
    assert result.returncode == 4 and "model.onnx is damaged: write it again with tenfold export" in result.stderr


WITHOUT_TORCH = """
import importlib.util as util, sys
lacking = ('torch', 'pandas', 'matplotlib', 'sklearn', 'scipy', 'safetensors', 'onnx')
sys.modules.update(dict.fromkeys(lacking))
found = util.find_spec
util.find_spec = lambda name, *more: None if name in lacking else found(name, *more)
from tenfold.cli import main
main()
"""


def scored_since(run: Run, place: Path) -> Path:
    """A copy of the run whose scores have another temperature than its file."""
    copy = Run.open(Path(shutil.copytree(run.path, place)))
    results = copy.require_scores()
    results["calibration"]["temperature"] = 5.0
    copy.rewrite_in_manifest({"results.json": json.dumps(results)})
    return copy.path


@pytest.mark.slow
def test_a_file_of_earlier_scores_is_used_where_no_other_can_be_written(run: Run, photos: Path, tmp_path: Path) -> None:
    """It stopped with code 2, though the file that was there answers."""
    copy = scored_since(run, tmp_path / "run")
    before = (copy / "model.onnx").read_bytes()
    words = [sys.executable, "-c", WITHOUT_TORCH, "predict", str(photos / "00.png"), "--model", str(copy), "--json"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and json.loads(result.stdout)["label"] in run.description.classes
    (line,) = result.stderr.splitlines()
    assert "model.onnx is used as it is, with the calibration (temperature and threshold) of earlier scores" in line
    assert "this needs torch" in line and (copy / "model.onnx").read_bytes() == before
    (copy / "model.onnx").unlink()
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "is to be exported first: this needs torch" in result.stderr


KILLED = """
import os, signal, sys
from pathlib import Path
replace, left = Path.replace, int(sys.argv.pop(1))
def replaced(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return replace(self, target)
Path.replace = replaced
from tenfold.data.shapes import make_shapes
from tenfold.serving.export import export
from tenfold.training.run import Run
export(Run.open(Path(sys.argv[1])), data=make_shapes(train=2000, test=500))
"""


@pytest.mark.slow
@pytest.mark.parametrize("written", [1, 2, 3])  # the lock; the manifest, too; the file, too
def test_a_killed_export_leaves_a_file_that_is_used(run: Run, tmp_path: Path, written: int) -> None:
    """Between the file and the manifest, the run was damaged from then on."""
    copy = scored_since(run, tmp_path / "run")
    assert run_program(KILLED, str(written), copy).returncode == -signal.SIGKILL
    Run.open(copy).verify()
    found = find_in_run(copy)
    assert found == (copy / "model.onnx", written == 3)
    assert found and open_model(found.path).about.temperature == (5.0 if written == 3 else 0.8)


def test_a_run_is_exported_into_itself_under_its_own_name_only(invoke: Invoke, run: Run, tmp_path: Path) -> None:
    """Written past the manifest, it made the run call itself damaged; under the name of the weights it was."""
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    refused = invoke("export", copy, "--out", copy / "model.safetensors")
    assert refused.returncode == 2 and "in a run directory this file is called model.onnx" in refused.stderr
    Run.open(copy).verify()


# --- the file of --out -----------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from tenfold import cli
from tenfold.serving import predict, resumable

place, nth, *sys.argv[1:] = sys.argv[1:]
predict.BATCH_SIZE = 4
append, count = resumable.ResumableWriter.append, 0


def struck(self, lines):
    global count
    count += 1
    if count == int(nth) and place == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if count == int(nth) and place == "middle":
        text = "".join(f"{line}\\n" for line in lines).encode()
        self._file.write(text[: len(text) * 2 // 3])
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, lines)
    if count == int(nth) and place == "after":
        os.kill(os.getpid(), signal.SIGKILL)


resumable.ResumableWriter.append = struck
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_killed_ten_times_each_input_is_answered_once(model: Path, photos: Path, tmp_path: Path, suffix: str) -> None:
    """15 batches, a kill in each of ten. Without cutting the torn line, it ends the next process."""
    out = tmp_path / f"answers{suffix}"
    arguments = ["predict", str(photos), "--model", str(model), "--out", str(out)]
    places = ["before", "middle", "after", "middle", "after"] * 2
    for index, place in enumerate(places):
        nth = "1" if place != "after" else "2"
        killed = run_program(CHILD, place, nth, *arguments)
        assert killed.returncode == -signal.SIGKILL, index
    lines = [line.split(",")[0] for line in out.read_text().splitlines()]
    assert 20 <= len(lines) < 60
    done = run_command(*arguments)
    assert done.returncode == 8 and "3 of 60 images could not be read" in done.stderr
    if suffix == ".csv":
        paths = [row["path"] for row in csv.DictReader(out.read_text().splitlines())]
    else:
        paths = [json.loads(line)["path"] for line in out.read_text().splitlines()]
    assert paths == [str(photos / f"{index:02}.png") for index in range(60)]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.slow
def test_an_unfinished_file_goes_on_with_the_same_request_only(
    invoke: Invoke, model: Path, small: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    words = ["predict", str(photos), "--out", str(out)]
    run_program(CHILD, "after", "3", *words, "--model", model)
    before = out.read_bytes()
    for other, said in (
        ([*words, "--model", small], "was started with another model"),
        ([*words, "--model", model, "--top", "2"], "was started with another --top"),
        ([*words, "--model", model, "--csv"], "was started with another form"),
        (["predict", photos / "09.png", "--out", out, "--model", model], "was started with other inputs"),
    ):
        result = invoke(*other)
        assert result.returncode == 2 and said in result.stderr
        assert out.read_bytes() == before
    assert invoke(*words, "--model", model).returncode == 8
    again = invoke(*words, "--model", model)
    assert again.returncode == 2 and "exists: choose another --out" in again.stderr


@pytest.mark.slow
def test_an_unfinished_file_goes_on_in_the_same_runtime_only(
    invoke: Invoke, small: Path, photos: Path, tmp_path: Path
) -> None:
    words = ["predict", str(photos), "--out", str(tmp_path / "answers.jsonl"), "--model", str(small)]
    run_program(CHILD, "after", "3", *words)
    result = invoke(*words, env=os.environ | {"TENFOLD_RUNTIME": "openvino"})
    assert result.returncode == 2 and "was started with another runtime" in result.stderr
    assert invoke(*words).returncode == 8


def test_where_there_was_nothing_to_answer_no_file_stays(
    invoke: Invoke, model: Path, photos: Path, tmp_path: Path
) -> None:
    """An empty one stayed, and when the folder was mended the same command said that it exists."""
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out" / "a.csv"
    words = ("predict", tmp_path / "empty", "--model", model, "--out", out)
    assert invoke(*words).returncode == 3
    assert not any(out.parent.glob("[!.]*"))  # but for the note that says whose folder it is
    shutil.copy(photos / "00.png", tmp_path / "empty")
    assert invoke(*words).returncode == 0 and len(out.read_text().splitlines()) == 2


def test_one_process_writes_it(tmp_path: Path) -> None:
    second = ResumableWriter(tmp_path / "a.jsonl", REQUEST)
    with (
        ResumableWriter(tmp_path / "a.jsonl", REQUEST),
        pytest.raises(BusyError, match="is being written by another"),
        second,
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.unfinished"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_an_interrupted_file_says_how_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: type[BaseException]
) -> None:
    with pytest.raises(kind), ResumableWriter(tmp_path / "a.jsonl", REQUEST):
        raise kind
    assert capsys.readouterr().err == f"stopped; the same command resumes {tmp_path / 'a.jsonl'}\n"


@pytest.mark.parametrize("torn", [b'{"path"', b"x" * 200_000, b""])
def test_a_torn_line_is_cut(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "a.jsonl"
    with ResumableWriter(path, REQUEST) as journal:
        journal.append(["one", "two"])
    path.write_bytes(path.read_bytes() + torn)
    with ResumableWriter(path, REQUEST) as journal:
        assert list(journal.lines()) == ["one", "two"]
        journal.append(["three"])
        journal.finish()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    """A limit on this process's files stands for the disk. Without the loop over `write`, a part is lost unnoticed."""
    path = tmp_path / "a.jsonl"
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with ResumableWriter(path, REQUEST) as journal:
            journal.append(["one"])
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            with pytest.raises(StorageError, match="the same command resumes when that is fixed"):
                journal.append(["x" * 2000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with ResumableWriter(path, REQUEST) as journal:
        assert list(journal.lines()) == ["one"]


def test_a_line_that_is_damaged_is_said(tmp_path: Path) -> None:
    with ResumableWriter(tmp_path / "a.jsonl", REQUEST) as journal:
        journal.append(["one"])
    (tmp_path / "a.jsonl").write_bytes(b"\xff\n")
    with ResumableWriter(tmp_path / "a.jsonl", REQUEST) as journal, pytest.raises(DataError, match="is damaged"):
        skip_done(journal, make_output_format("json", ("cat", "dog"), 1), iter(()))


def test_a_note_that_is_damaged_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv.unfinished").write_text("{")
    with (
        pytest.raises(UsageError, match=r"a\.csv\.unfinished is not understood"),
        ResumableWriter(tmp_path / "a.csv", REQUEST),
    ):
        pass


# --- many ------------------------------------------------------------------------------------------------------------

MEASURED = """
import resource, sys
from tenfold import cli
from tenfold.serving import inputs, predict

inputs.WINDOW = 1000
try:
    cli.main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def answer_copies(model: Path, one: Path, folder: Path, count: int) -> tuple[list[str], int]:
    """Answer `count` links to one image, every hundredth of them a bad one: lines, and the most KiB held."""
    folder.mkdir()
    (folder / ".bad").write_bytes(b"no image")
    for index in range(count):
        path = folder / f"{index:07}.png"
        path.hardlink_to(folder / ".bad" if index % 100 == 99 else one)
    words = [sys.executable, "-c", MEASURED, "predict", str(folder), "--model", str(model), "--csv"]
    result = subprocess.run(words, capture_output=True, text=True)
    *bad, last, memory = result.stderr.splitlines()
    assert result.returncode == 8 and last == f"tenfold: {count // 100:,} of {count:,} images could not be read"
    assert len(bad) == count // 100
    return result.stdout.splitlines(), int(memory)


@pytest.mark.slow
def test_memory_stays_flat(model: Path, photos: Path, tmp_path: Path) -> None:
    """5,000 files hold no more than 500 do, give or take 10 MB."""
    _, few = answer_copies(model, photos / "00.png", tmp_path / "few", 500)
    lines, many = answer_copies(model, photos / "00.png", tmp_path / "many", 5_000)
    assert len(lines) == 5_001 and many < few + 10_000


@pytest.mark.acceptance
def test_twenty_thousand_files(model: Path, photos: Path, tmp_path: Path) -> None:
    _, few = answer_copies(model, photos / "00.png", tmp_path / "few", 1_000)
    lines, many = answer_copies(model, photos / "00.png", tmp_path / "many", 20_000)
    assert len(lines) == 20_001 and many < few + 10_000
    labels = {row["label"] for row in csv.DictReader(lines) if not row["error"]}
    assert len(labels) == 1 and np.all([row["error"] == "" for row in csv.DictReader(lines)][:99])


# --- letters that an output lacks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cats(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model all of whose classes are cats in Chinese, and with a grey image."""
    folder = tmp_path_factory.mktemp("cats")
    about = replace(open_model(model).about, classes=tuple(f"猫{i}" for i in range(10)))
    (folder / "x.onnx").write_bytes(pack(onnx.load(model), about))
    Image.new("RGB", (32, 32), "grey").save(folder / "x.png")
    return folder


@pytest.mark.parametrize(
    ("form", "encoding", "label"),
    [
        ("--csv", "", "猫"),
        ("--csv", "cp1252", r"\u732b"),
        ("--json", "cp1252", r"\u732b"),
        ("--top=1", "", "猫"),
        ("--top=1", "ascii", r"\u732b"),
    ],
)
def test_no_letter_is_lost(cats: Path, form: str, encoding: str, label: str) -> None:
    """A pipe gets UTF-8 unless another encoding is asked for; what that one lacks is an escape; it was a "?"."""
    env = os.environ | {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    words = [sys.executable, "-m", "tenfold", "predict", "x.png", "--model", "x.onnx", form]
    result = subprocess.run(words, cwd=cats, env=env, capture_output=True, timeout=LONG)
    assert result.returncode == 0, result.stderr
    said = result.stdout.decode(encoding or "utf-8")
    assert label in said and "?" not in said
