"""The command: what it prints where, its exit codes, and one clear line for everything that is wrong."""

import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import tenfold
from tenfold import cli
from tenfold.api import training as api_training
from tenfold.training import train as training
from tenfold.training.recipe import Recipe
from tenfold.training.run import Run
from tests.support.process import Command, Invoke

TRAIN_KEYS = {
    # DESIGN: what `train --json` says
    "run",
    "recipe",
    "seed",
    "device",
    "dtype",
    "parameters",
    "epochs",
    "train_seconds",
    "total_seconds",
    "report_seconds",
    "test_accuracy",
    "test_accuracy_single_view",
    "test_loss",
    "test_cross_entropy",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty folder to work in, no TENFOLD_* but the cache's, and the signals' handlers put back."""
    for name in os.environ:
        if name.startswith("TENFOLD_") and name != "TENFOLD_HOME":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Run the command within this process: exit code, standard output, standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tenfold", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_is_quick_and_needs_no_room(command: Command) -> None:
    """Half a second, of the processor's time: a busy machine gives it later, but not more of it."""
    seconds = []
    for _ in range(5):
        before = _children_seconds()
        result = command("--help")
        seconds.append(_children_seconds() - before)
        assert result.returncode == 0 and "train" in result.stdout and result.stderr == ""
    assert min(seconds) <= 0.5


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("verb", [[], ["train"], ["data", "download"], ["recipe", "show"]])
def test_help_imports_nothing_heavy(verb: list[str]) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "tenfold", *verb, "--help"]
    result = subprocess.run(words, capture_output=True, text=True)
    imported = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")
    }
    assert "tenfold.cli" in imported
    heavy = {"torch", "numpy", "pandas", "matplotlib", "sklearn", "PIL", "safetensors"}
    assert imported & heavy == set()
    assert result.returncode == 0 and "Usage:" in result.stdout


def test_completion_knows_the_commands(command: Command) -> None:
    environment = os.environ | {"_TENFOLD_COMPLETE": "complete_bash", "COMP_WORDS": "tenfold au", "COMP_CWORD": "1"}
    assert command(env=environment).stdout.split() == ["audit"]


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(cli.__file__).parents[1] / "py.typed").is_file()


@pytest.mark.parametrize("verb", [[], ["data"], ["recipe"]])
def test_without_a_verb_there_is_help_and_code_2(invoke: Invoke, verb: list[str]) -> None:
    code, out, err = invoke(*verb)
    assert code == 2
    assert "Usage:" in out and err == ""


def test_the_version_is_the_packages(invoke: Invoke) -> None:
    from importlib.metadata import version

    assert invoke("--version") == (0, f"tenfold {version('tenfold')}\n", "")


def on_terminal(*arguments: str, **environment: str) -> str:
    """What the command prints when standard output is a terminal."""
    own, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | environment
    words = [sys.executable, "-m", "tenfold", *arguments]
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm-256color"}):
        os.close(theirs)
        printed = b""
        while True:
            try:
                part = os.read(own, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            printed += part
    os.close(own)
    return printed.decode()


def test_no_color_is_honoured() -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]")
    assert colour.search(on_terminal("--help"))
    plain = on_terminal("--help", NO_COLOR="1")
    assert "Usage:" in plain and not colour.search(plain)


# --- what is wrong is one line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["train", "--recipe", "fast90"], 2, "unknown recipe 'fast90': choose fast89"),
        (["train", "--recipe", "absent.json"], 2, "cannot read recipe absent.json: No such file or directory"),
        (["train", "--recipe", "bad.json"], 2, "bad.json: name: "),
        (["train", "--data", "imagenet"], 2, "'imagenet'; known are cifar10, shapes"),
        (["train", "--data", "shapes", "--device", "tpu"], 2, "unknown device 'tpu': choose auto, cpu, cuda, mps"),
        (["train", "--data", "shapes", "--device", "cuda:99"], 2, "device 'cuda:99' is not on this machine"),
        (
            ["train", "--data", "shapes", "--out", "taken"],
            2,
            "taken exists: choose another --out, or resume it: --resume --out taken",
        ),
        (["train", "--sead", "1"], 2, "--sead"),
        (["profile", "--data", "shapes", "--device", "mps"], 2, "No such option: --device"),
        (["profile", "--data", "shapes", "--epochs", "0.1"], 2, "too few to profile"),
        (["recipe", "show", "fast98"], 2, "unknown recipe 'fast98': choose fast89"),
        (["compare", "taken"], 2, "compare takes two or more runs: for one, use tenfold report taken"),
        (["bench", "--recipe", "fast89", "--recipe", "fast98"], 2, "; did you mean fast96?"),
        (["train", "--data", "cifar"], 2, "; did you mean cifar10?"),
        (["train", "--data", "taken", "--resize", "strech"], 2, "; did you mean stretch?"),
        (["train", "--data", "shapes", "--device", "cup"], 2, "; did you mean cpu?"),
        (
            ["export", "taken", "--to", "onx"],
            2,
            "unknown export format 'onx'; known are keras, onnx; did you mean",
        ),
        (["export", "taken", "--int8", "atuo"], 2, "--int8 must be auto, on or off, not atuo; did you mean auto?"),
        (["runs", "--sort", "accurcy"], 2, "; did you mean accuracy?"),
        (["train", "--epochs", "0"], 2, "--epochs must be more than 0"),
        (["train", "--epochs", "-1"], 2, "--epochs must be more than 0"),
        (["train", "--epochs", "nan"], 2, "--epochs must be more than 0"),
        (["train", "--epochs", "inf"], 2, "--epochs must be more than 0"),
        (["train", "--epochs", "many"], 2, "--epochs"),
        (["train", "--data", "shapes", "--val-size", "2000"], 2, "a validation set of 2000 leaves nothing of 2000"),
        (["train", "--data", "shapes", "--val-size", "-1"], 2, "--val-size must be 0 or more"),
        (["train", "--seed", "-1"], 2, "--seed"),
        (["train", "--seed", "one"], 2, "--seed"),
        (["train", "--resume"], 4, "nothing to resume: no unfinished run in runs"),
        (["train", "--resume", "--out", "absent"], 4, "absent is not a run directory"),
        (["train", "--resume", "--out", "taken"], 4, "taken is not a run directory"),
        (["data", "download", "--from", "absent.tar.gz"], 3, "absent.tar.gz"),
        (["data", "download", "--from", "taken/noise.tar.gz"], 3, "noise.tar.gz"),
        (["data", "download", "imagenet"], 2, "'imagenet'; known are cifar10, shapes"),
        (["data", "download", "shapes"], 2, "'shapes' is generated whenever it is needed"),
        (["teach"], 2, "'teach'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, named: str
) -> None:
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "home")) if arguments[0] == "data" else None
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "noise.tar.gz").write_bytes(b"no archive")
    (tmp_path / "bad.json").write_text('{"name": 3}')
    returned, out, err = invoke(*arguments)
    assert (returned, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith("tenfold: ") and named in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_offline_without_data_says_so_and_ends(command: Command, tmp_path: Path) -> None:
    """A real process. The line before the last says that the data set is missing."""
    environment = os.environ | {"TENFOLD_OFFLINE": "1", "TENFOLD_HOME": str(tmp_path / "home")}
    result = command("train", env=environment, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (3, "")
    lines = result.stderr.splitlines()
    assert len(lines) <= 2
    assert lines[-1].startswith("tenfold: TENFOLD_OFFLINE forbids the network; give CIFAR-10 with --from PATH")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(28, "No space left on device", "runs/x"), 7, "tenfold: No space left on device: runs/x"),
        (MemoryError(), 7, "tenfold: out of memory: when training, try a smaller batch_size in a recipe file"),
    ],
)
def test_what_the_machine_lacks_is_one_line(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, line: str
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(training, "train", fail)
    assert invoke("train", "--data", "shapes") == (code, "", line + "\n")


def test_a_missing_extra_is_named(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("torch", "psutil") else name)
    code, out, err = invoke("train")
    assert (code, out) == (2, "")
    assert err == (
        "tenfold: this needs torch, psutil of the extra 'train': pip install '.[train]' where tenfold's source lies\n"
    )


@pytest.mark.slow
def test_debug_shows_the_traceback(command: Command, tmp_path: Path) -> None:
    result = command("train", "--recipe", "fast90", env=os.environ | {"TENFOLD_DEBUG": "1"}, cwd=tmp_path)
    assert result.returncode != 0 and "Traceback" in result.stderr and "fast90" in result.stderr


# --- where settings come from ----------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What training was asked for; it ends there."""
    asked: dict[str, Any] = {}

    def record(recipe: Recipe, dataset: object, out: Path, **options: Any) -> NoReturn:
        asked.update(options, recipe=recipe, out=out)
        raise MemoryError

    def record_resumed(out: Path, device: str | None, _folder: Path | None, *_: object, **_more: object) -> NoReturn:
        asked.update(out=out, device=device)
        raise MemoryError

    monkeypatch.setattr(training, "train", record)
    monkeypatch.setattr(training, "resume", record_resumed)
    return asked


def test_without_options_it_is_fast89_with_seed_0(invoke: Invoke, asked: dict[str, Any]) -> None:
    invoke("train", "--data", "shapes")
    assert asked["recipe"].name == "fast89" and asked["seed"] == 0 and asked["device"] == "auto"
    assert re.fullmatch(r"runs/fast89-0-\d{8}-\d{6}", str(asked["out"]))


def test_variables_are_honoured_and_flags_go_first(
    invoke: Invoke, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"RECIPE": "reference", "DATA": "shapes", "OUT": "mine", "SEED": "7", "DEVICE": "cpu", "EPOCHS": "7"}
    for name, value in (variables | {"VAL_SIZE": "30"}).items():
        monkeypatch.setenv(f"TENFOLD_{name}", value)
    invoke("train")
    recipe = asked["recipe"]
    assert (recipe.name, str(asked["out"]), asked["seed"], asked["device"]) == ("reference", "mine", 7, "cpu")
    assert recipe.epochs == pytest.approx(7) and (recipe.val_size, recipe.val_split) == (30, "last")
    invoke("train", "--seed", "8", "--epochs", "3", "--recipe", "fast89", "--out", "other")
    assert (asked["recipe"].name, str(asked["out"]), asked["seed"]) == ("fast89", "other", 8)
    assert asked["recipe"].epochs == pytest.approx(3)


def test_a_variable_that_is_wrong_is_named(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_SEED", "one")
    code, out, err = invoke("train")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "TENFOLD_SEED" in err


@pytest.fixture
def unfinished(tiny_recipe: Path, tmp_path: Path) -> Path:
    recipe = Recipe.from_json(tiny_recipe.read_bytes()).with_epochs(0.3)
    env = {"seed": 3, "data": "shapes", "device": "cpu", "dtype": "float32"}
    run = Run.create(tmp_path / "runs" / "mine", recipe, env)
    run.unlock()
    return run.path


@pytest.mark.parametrize(
    ("option", "value", "was"),
    [
        ("--recipe", "reference", "tiny"),
        ("--data", "cifar10", "shapes"),
        ("--seed", "4", "3"),
        ("--epochs", "0.4", "0.3"),
        ("--val-size", "10", "0"),
    ],
)
def test_a_resumed_run_keeps_its_settings(
    invoke: Invoke, unfinished: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str, was: str
) -> None:
    said = f"was started with {option} {was}"
    code, out, err = invoke("train", "--resume", "--out", unfinished, option, value)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err and f"leave {option} out" in err
    monkeypatch.setenv(f"TENFOLD_{option[2:].replace('-', '_').upper()}", value)
    code, _, err = invoke("train", "--resume")
    assert code == 2 and said in err


@pytest.mark.parametrize(("option", "value"), [("--size", "16"), ("--resize", "center_crop"), ("--skip-bad", "5%")])
def test_a_resumed_run_without_a_folder_takes_no_option_about_one(
    invoke: Invoke, unfinished: Path, option: str, value: str
) -> None:
    """It was silently without effect."""
    code, out, err = invoke("train", "--resume", "--out", unfinished, option, value)
    assert (code, out) == (2, "") and err.strip().endswith(f"is trained on none: leave {option} out")


def test_settings_that_are_the_same_are_no_contradiction(
    invoke: Invoke, asked: dict[str, Any], unfinished: Path, tiny_recipe: Path
) -> None:
    same = ["--recipe", tiny_recipe, "--data", "shapes", "--seed", "3", "--epochs", "0.3", "--val-size", "0"]
    invoke("train", "--resume", *same)
    assert asked == {"out": unfinished.relative_to(Path.cwd()), "device": None}
    invoke("train", "--resume", "--out", unfinished, "--device", "cpu")
    assert asked == {"out": unfinished, "device": "cpu"}


@pytest.mark.parametrize(
    ("options", "left_out"),
    [([], []), (["--no-report"], ["report"]), (["--no-report", "--no-export"], ["report", "export"])],
)
def test_what_is_not_to_follow_training_is_noted_for_a_resumed_run(
    invoke: Invoke, asked: dict[str, Any], options: list[str], left_out: list[str]
) -> None:
    invoke("train", "--data", "shapes", *options)
    assert asked["left_out"] == left_out


def test_a_resumed_run_leaves_out_what_it_was_started_without_unless_it_is_given(
    invoke: Invoke, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--resume` drew the report and wrote the file of a run that was started with --no-report --no-export."""
    wanted: list[object] = []

    def finish(_start: object, after: Any, *_: object) -> NoReturn:
        run = tenfold.Run.open(unfinished)
        wanted.append((after.wants("report", run), after.wants("export", run)))
        raise MemoryError

    monkeypatch.setattr(api_training, "_complete", finish)
    invoke("train", "--resume", "--out", unfinished)
    env = json.loads((unfinished / "env.json").read_text())
    (unfinished / "env.json").write_text(json.dumps(env | {"left_out": ["report", "export"]}))
    invoke("train", "--resume", "--out", unfinished)
    invoke("train", "--resume", "--out", unfinished, "--report")
    assert wanted == [(True, True), (False, False), (True, False)]


# --- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(fork: Command, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`tenfold train --json` as a process: what it returned, and where it ran."""
    folder = tmp_path_factory.mktemp("whole")
    words = ["train", "--recipe", tiny_recipe, "--data", "shapes", "--epochs", "0.3", "--seed", "3", "--json"]
    return fork(*words, cwd=folder), folder


@pytest.mark.slow
def test_json_is_one_line_with_the_promised_keys(whole: Any) -> None:
    result, folder = whole
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1 and result.stdout.endswith("\n")
    answer = json.loads(result.stdout)
    assert TRAIN_KEYS - answer.keys() == set()
    (run,) = (folder / "runs").glob("[!.]*")  # beside the note that says whose folder it is
    assert re.fullmatch(r"tiny-3-\d{8}-\d{6}", run.name)
    assert folder / answer["run"] == run
    assert (answer["recipe"], answer["seed"], answer["parameters"]) == ("tiny", 3, 12_320)
    assert answer["epochs"] == pytest.approx(0.3)
    assert 0 < answer["train_seconds"] < answer["total_seconds"]
    for later in ("rejection", "export", "report"):  # known only after the file was written
        assert answer.pop(f"{later}_seconds") > 0
    assert json.loads((run / "results.json").read_text()) == answer


@pytest.mark.slow
def test_remarks_are_plain_text_on_standard_error(whole: Any) -> None:
    result, _ = whole
    assert "\x1b" not in result.stderr and "\r" not in result.stderr  # no colour, no bar
    assert f"test accuracy {json.loads(result.stdout)['test_accuracy']:.2%}" in result.stderr


@pytest.mark.slow
def test_a_run_leaves_the_promised_files(whole: Any) -> None:
    result, folder = whole
    run = folder / json.loads(result.stdout)["run"]
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    promised = {"recipe.json", "env.json", "metrics.csv", "results.json", "predictions.csv", "model.safetensors"}
    promised |= {"model.json", "manifest.json", "report.html", "logits/test.safetensors", "model.onnx"}
    promised |= {f"plots/{name}.png" for name in ("history", "gallery", "misclassified", "confusion")}
    assert promised - found == set()
    Run.open(run).verify()


@pytest.mark.slow
def test_scores_for_people_go_to_standard_output(fork: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    words = ["train", "--recipe", tiny_recipe, "--data", "shapes", "--epochs", "0.1", "--out", "mine"]
    result = fork(*words, "--no-report", "--no-export", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "mine" / "results.json").read_text())
    first = result.stdout.splitlines()[0]
    assert first.startswith(f"test accuracy {scores['test_accuracy']:.2%} (")
    assert all(label in result.stdout for label in ("disk", "heart", "macro avg"))
