"""Fills the templates, and forbids the browser everything that is not in the file."""

import base64
import functools
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tenfold.evaluation.metrics import format_confidence
from tenfold.evaluation.page.sections import percent

_FOLDER = Path(__file__).parent
_POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src {}; script-src {}"


_SCRIPTS = {"report": ("page", "report", "review"), "comparison": ("page", "comparison")}


def report_page(values: Mapping[str, Any], images_css: str, data: Mapping[str, Any]) -> str:
    """The page of one run. `data` goes to its script as JSON."""
    return _render("report", values, images_css, data)


def comparison_page(values: Mapping[str, Any], images_css: str, data: Mapping[str, Any]) -> str:
    """The page that compares several runs."""
    return _render("comparison", values, images_css, data)


def _render(name: str, values: Mapping[str, Any], images_css: str, data: Mapping[str, Any]) -> str:
    style = Markup(_read("page.css") + images_css)
    script = Markup("".join(_read(f"{part}.js") for part in _SCRIPTS[name]))
    policy = _POLICY.format(_hash(style), _hash(script))
    template = _environment().get_template(f"{name}.html")
    return template.render(values, style=style, script=script, policy=policy, data=data, version=version("tenfold"))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,  # whatever a class or a file is called, it is text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "confidence": format_confidence, "number": _number}
    return environment


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value:,.4g}"


def _hash(text: str) -> str:
    """The hash that names this text in the policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
