"""Names of things that are registered, and plugins that register more."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenfold import registry
from tenfold.errors import UsageError
from tenfold.registry import VARIABLE, Registry
from tests.support.waiting import LONG

PLUGIN = "from tenfold import registry\nregistry.shared.add('from-plugin', {value}, __name__)\n"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[int]]:
    """A registry that plugin files can reach, in a process whose plugins are not loaded yet."""
    made: Registry[int] = Registry("number")
    made.add("fifteen", 15, __name__)
    made.add("fifty", 50, __name__)
    monkeypatch.setattr(registry, "shared", made, raising=False)
    monkeypatch.setattr(registry, "_loaded", False)
    monkeypatch.delenv("TENFOLD_DEBUG", raising=False)
    modules = set(sys.modules)
    yield made
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_what_is_registered_is_found_by_its_name(shared: Registry[int]) -> None:
    assert (shared.find("fifty"), shared.names(), "fifteen" in shared, "six" in shared) == (
        50,
        ("fifteen", "fifty"),
        True,
        False,
    )


def test_a_typo_gets_a_suggestion(shared: Registry[int]) -> None:
    with pytest.raises(UsageError, match=r"^unknown number 'fiften'; known are .*; did you mean fifteen\?$"):
        shared.find("fiften")


def test_a_name_like_no_other_gets_the_list_only(shared: Registry[int]) -> None:
    with pytest.raises(UsageError, match=r"^unknown number 'x'; known are fifteen, fifty; plugins add others"):
        shared.find("x")


def test_a_name_given_twice_names_both_places(shared: Registry[int]) -> None:
    with pytest.raises(UsageError) as raised:
        shared.add("fifty", 5, "json")
    import json

    assert str(raised.value) == f"number 'fifty' is registered twice: by {__file__} and by {json.__file__}"
    assert shared.find("fifty") == 50


def test_the_same_file_may_register_a_name_again(shared: Registry[int]) -> None:
    shared.add("fifty", 51, __name__)
    assert shared.find("fifty") == 51


def test_plugin_files_are_loaded_for_unknown_names_only(
    shared: Registry[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN.format(value=7))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "plugin.py"))
    assert shared.find("fifty") == 50 and not registry._loaded
    assert shared.find("from-plugin") == 7 and registry._loaded


def test_a_plugin_may_be_a_module(shared: Registry[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_plugin_module.py").write_text(PLUGIN.format(value=8))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "some_plugin_module")
    assert shared.find("from-plugin") == 8


def test_files_of_one_name_in_two_folders_are_two_plugins(
    shared: Registry[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would otherwise be taken for the first, or, registering the same name, not be noticed."""
    paths = [tmp_path / folder / "plugin.py" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(PLUGIN.format(value=9))
    monkeypatch.setenv(VARIABLE, os.pathsep.join(map(str, paths)))
    with pytest.raises(UsageError, match=rf"'from-plugin' is registered twice: by {paths[0]} and by {paths[1]}$"):
        shared.find("from-plugin")


@pytest.mark.parametrize(
    ("text", "what"),
    [("raise KeyError('x')", "KeyError: 'x'"), ("import nonesuch", "ModuleNotFoundError: No module named 'nonesuch'")],
)
def test_a_broken_plugin_is_named_in_one_line(
    shared: Registry[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    what: str,
) -> None:
    broken, sound = tmp_path / "broken.py", tmp_path / "sound.py"
    broken.write_text(text)
    sound.write_text(PLUGIN.format(value=10))
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(broken), str(sound)]))
    assert shared.find("from-plugin") == 10
    assert capsys.readouterr().err == f"Warning: plugin {broken} is left out: {what}\n"


def test_an_installed_package_brings_plugins(
    shared: Registry[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an installer leaves it: a module, and a folder of metadata that names it as an entry point."""
    (tmp_path / "shop.py").write_text(PLUGIN.format(value=11))
    metadata = tmp_path / "shop-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tenfold.plugins]\nshop = shop\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert shared.find("from-plugin") == 11


def test_help_loads_no_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'loaded')!r}).touch()\n")
    line = [sys.executable, "-m", "tenfold", "train", "--help"]
    subprocess.run(line, env=os.environ | {VARIABLE: str(plugin)}, check=True, capture_output=True, timeout=LONG)
    assert not (tmp_path / "loaded").exists()
