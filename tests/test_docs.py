"""The documentation: its commands run, its links lead somewhere, its lines are short, its site builds.

README and tutorial are run as they stand, in order, in a folder with a few images, through the real command. What is
different, so that a minute is enough, is in `SMALLER`, in `_environment` and in `support/pages.py`.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tenfold.data.shapes import make_shapes
from tenfold.serving.predictor import open_model
from tenfold.serving.serve.app import make_app
from tenfold.serving.serve.guard import Hosts
from tests.support import forks, pages
from tests.support.waiting import LONG

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in (*DOCS.rglob("*.md"), ROOT / "README.md"))
WRAPPED = [page for page in PAGES if page.name != "log.md"]  # the log of experiments is only appended to
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SMALLER = {"--val-size 5000": "--val-size 20", "--runs 20": "--runs 1"}
"""Parts of commands that would take long, and what the tests put in their place."""
INSTALLS = ("make train", "python3 -m venv", "pip install")
"""Commands that install are not run, since they use the network: what they name is checked."""
SHELLS = "|&;<>()$`\\\"'*?[]{}~\n"
"""A command with one of these is run by bash, another one directly."""
WAITING = "tenfold serve"
"""Started, and ended by Ctrl-C after the last command of the page."""


def _blocks(page: Path, *languages: str) -> Iterator[tuple[str, str]]:
    """Language and text of each block of code."""
    for _, language, text in FENCE.findall(page.read_text()):
        if language in languages:
            yield language, text


def _commands(text: str) -> list[str]:
    """What follows a prompt, with the lines that continue it."""
    return [part.strip() for part in re.split(r"^\$ ", text, flags=re.MULTILINE) if part.strip()]


def _write_images(folder: Path) -> None:
    """flowers/, a folder of three classes, and photo.jpg."""
    shapes = make_shapes(train=240, test=1)
    for number, (image, label) in enumerate(zip(shapes.train.images, shapes.train.labels, strict=True)):
        if label < 3:
            path = folder / "flowers" / ("daisy", "rose", "tulip")[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    Image.fromarray(shapes.test.images[0]).resize((90, 60)).save(folder / "photo.jpg")


def _environment(folder: Path, port: int) -> dict[str, str]:
    """Documented variables: the small folder in place of CIFAR-10, few epochs, small images, a free port."""
    binaries = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "TENFOLD_HOME": str(folder / "home"),
        "TENFOLD_OFFLINE": "1",
        "TENFOLD_DATA": "flowers",
        "TENFOLD_EPOCHS": "0.5",
        "TENFOLD_SIZE": "8",
        "TENFOLD_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Shell:
    """Runs a page's commands one after another in one folder."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, _free_port()
        self.environment = _environment(folder, self.port)
        self.services: list[subprocess.Popen[str]] = []
        self.outputs: dict[str, str] = {}

    def run(self, command: str) -> str:
        """Run it with bash; return its standard output. A command that waits is only started.

        What README and tutorial both have, such as the first training, is run where it comes first.
        """
        if not command.startswith("tenfold ") or command.startswith(WAITING):
            return self._run(command)
        alike = command.partition("  #")[0].rstrip()
        if alike not in self.outputs:
            self.outputs[alike] = self._run(command)
        return self.outputs[alike]

    def _run(self, command: str) -> str:
        for text, smaller in SMALLER.items():
            command = command.replace(text, smaller)
        command = command.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        if command.startswith(WAITING):
            return self._start(command)
        if command.startswith("tenfold ") and not set(command) & set(SHELLS):
            return self._forked(pages.command, *shlex.split(command, comments=True)[1:])
        return self._ended(["bash", "-euc", command])

    def python(self, code: str) -> str:
        """Run a Python program."""
        return self._forked(pages.program, code)

    def _forked(self, call: Callable[..., None], *words: str) -> str:
        """In a process without the seconds of a start: a page has some twenty commands."""
        fork = forks.Fork(call, *words, cwd=self.folder, env=self.environment)
        assert fork.wait() == 0, f"{words}\n{fork.text('out')}{fork.text('err')}"
        return fork.text("out")

    def _ended(self, words: list[str]) -> str:
        where = {"cwd": self.folder, "env": self.environment}
        result = subprocess.run(words, capture_output=True, text=True, timeout=LONG, **where)  # type: ignore[call-overload]
        assert result.returncode == 0, f"{words[-1]}\n{result.stdout}{result.stderr}"
        return str(result.stdout)

    def _start(self, command: str) -> str:
        words = ["bash", "-euc", f"exec {command}"]
        where = {"cwd": self.folder, "env": self.environment}
        service = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **where)  # type: ignore[call-overload]
        self.services.append(service)
        return str(service.stdout.readline())  # the address, once it is ready

    def end(self) -> None:
        """Ctrl-C to what waits, which ends with 0."""
        for service in self.services:
            service.send_signal(signal.SIGINT)
            assert service.wait(LONG) == 0
            service.communicate()  # closes the pipe
        self.services.clear()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("pages")
    _write_images(folder)
    shell = Shell(folder)
    yield shell
    for service in shell.services:
        service.kill()
        service.communicate()  # waits, and closes the pipe


def _check_installation(command: str) -> None:
    """That the target and the extras that an installing command names exist."""
    if command.startswith("make "):
        assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"'\.\[([\w,]+)\]'", command):
        assert set(named.split(",")) <= set(extras)
    for file in re.findall(r"-c (\S+)", command):
        assert (ROOT / file).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "tutorial.md"], ids=lambda page: page.name)
def test_every_command_of_the_page_runs(page: Path, shell: Shell) -> None:
    run = 0
    for language, text in _blocks(page, "console", "python"):
        if language == "python":
            assert shell.python(text), text
        for command in _commands(text) if language == "console" else ():
            if command.startswith(INSTALLS):
                _check_installation(command)
                continue
            output = shell.run(command)
            assert output or "--out answers.csv" in command or ">" in command, f"{command}: no output"
            run += 1
    shell.end()
    assert run > 10
    assert (shell.folder / "runs" / "first" / "report.html").is_file()


@pytest.mark.slow
def test_the_data_set_of_arrays_is_trained_on(shell: Shell) -> None:
    (code,) = (text for _, text in _blocks(DOCS / "extending" / "dataset.md", "python") if "tenfold.Dataset(" in text)
    before = set(shell.folder.glob("runs/*/report.html"))
    assert 0 <= float(shell.python(code)) <= 1  # the accuracy
    assert len(set(shell.folder.glob("runs/*/report.html")) - before) == 1


@pytest.mark.slow
def test_recipes_in_the_pages_are_read(tmp_path: Path) -> None:
    """Those with a base, where the examples' plugins are loaded."""
    recipes = [text for page in PAGES for _, text in _blocks(page, "json") if text.startswith('{"base"')]
    for number, text in enumerate(recipes):
        (tmp_path / f"{number}.json").write_text(text)
    plugins = os.pathsep.join(map(str, (ROOT / "examples" / "plugins").glob("*.py")))
    code = "import sys, tenfold\nfor path in sys.argv[1:]: print(tenfold.find_recipe(path).name)"
    line = [sys.executable, "-c", code, *map(str, sorted(tmp_path.glob("*.json")))]
    result = subprocess.run(line, env=os.environ | {"TENFOLD_PLUGINS": plugins}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {"bright", "mine", "small-resnet"} <= set(result.stdout.split())


def test_the_first_command_of_the_readme_is_make_train() -> None:
    first = next(_blocks(ROOT / "README.md", "console"))[1]
    assert _commands(first) == ["make train"]
    makefile = subprocess.run(["make", "-n"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "tenfold train" in makefile  # plain `make` does it, too


def test_the_readme_is_short_and_has_no_placeholder() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert not re.search(r"example\.(com|org)|YOUR|<[a-z]+>|git clone …", text)


@pytest.mark.parametrize("page", WRAPPED, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_have_at_most_100_characters(page: Path) -> None:
    """Code, tables and the addresses of links excepted."""
    prose = FENCE.sub("", page.read_text()).splitlines()
    assert [line for line in prose if len(line) > 100 and not re.match(r"\||\[\w+\]: ", line)] == []


def _written_files() -> Iterator[Path]:
    """All text that people read: code, pages and scripts of the package, documentation, examples."""
    for folder in ("tenfold", "docs", "examples"):
        paths = (path for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts)
        yield from (path for path in paths if path.suffix in {".py", ".md", ".html", ".js", ".css", ".json"})
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))


def test_the_words_are_those_of_the_field() -> None:
    """The log of experiments is history; names of tests are quoted; old files and seeds keep two old names alive."""
    history = {ROOT / "docs" / "log.md"}
    old_names = {("tenfold/training/aliases.py", "judge"), ("tenfold/training/proxy.py", "judge")}
    wrong, found = (
        re.compile(r"\b(?:judge|dealt?|told|surest|anew|begun|goes on|what it takes)\b", re.IGNORECASE),
        set(),
    )
    for path in {*_written_files()} - history:
        text = path.read_text()
        prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)) if path.suffix == ".md" else text
        found |= {(path.relative_to(ROOT).as_posix(), word.lower()) for word in wrong.findall(prose)}
    assert found == old_names


def _anchors(page: Path) -> set[str]:
    """Fragments that lead into a page, as Markdown makes them of headings."""
    text = FENCE.sub("", page.read_text())
    for include in re.findall(r'^--8<-- "(.+)"$', text, re.MULTILINE):
        text += (ROOT / include).read_text()
    own = re.findall(r"\{#([\w-]+)\}", text)
    titles = [re.sub(r"\{#.*\}|[`*]", "", title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {*own, *(re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if fragment and file.suffix == ".md":
            assert fragment in _anchors(file), target


def test_every_test_that_the_page_on_keras_names_is_there() -> None:
    text = (DOCS / "background" / "keras.md").read_text()
    named = set(re.findall(r"\b(test_\w+)`", text)) - {"test_accuracy", "test_loss"}  # fields of results.json
    texts = [path.read_text() for path in ROOT.joinpath("tests").rglob("test_*.py")]
    written = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    files = {path.name for path in ROOT.joinpath("tests").rglob("test_*.py")}
    assert len(named) > 5 and not named - written
    assert set(re.findall(r"\b(test_\w+\.py)`", text)) <= files


def test_every_file_that_the_code_points_to_is_there() -> None:
    """`docs/log.md` and the like, in docstrings, messages, benchmarks and tests."""
    sources = [path for folder in ("tenfold", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|png|csv)", path.read_text())}
    assert len(named) > 3 and {name for name in named if not (ROOT / name).is_file()} == set()


def test_every_route_is_documented() -> None:
    paths = make_app(open_model(), "cifar10", Hosts("127.0.0.1")).app.openapi()["paths"]  # type: ignore[attr-defined]
    text = (DOCS / "reference" / "http.md").read_text().replace("…/", "/v2/models/{name}/")
    undocumented = {path for path in paths if path.replace("/versions/{version}", "") not in text}
    assert len(paths) > 10 and undocumented == set()


def test_every_file_that_a_page_names_is_there() -> None:
    """`tenfold/training/recipe.py` and the like."""
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`((?:tenfold|tests|benchmarks)/[\w./-]+\.\w+)`", page.read_text())
    }
    assert len(named) > 5 and {name for name in named if not (ROOT / name).is_file()} == set()


@pytest.mark.slow
def test_the_site_builds_strictly_and_needs_no_network(tmp_path: Path) -> None:
    """No warning; and no page loads a font, script, style or image from elsewhere."""
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        loads = re.findall(r'(?:<link[^>]*href|src|srcset)="?(https?:|//)[^">]*', page.read_text())
        assert loads == [], page
    extending = " ".join(page.read_text() for page in (tmp_path / "site" / "extending").glob("*.html"))
    for example in (ROOT / "examples" / "plugins").glob("*.py"):
        (name, *_) = re.findall(r"^(?:class|def) (\w+)", example.read_text(), re.MULTILINE)
        assert re.search(rf">{name}<", extending), f"no page includes {example.name}"
    command = (tmp_path / "site" / "reference" / "cli.html").read_text()
    assert 'id="tenfold-train"' in command and "--epochs" in command
