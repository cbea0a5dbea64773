"""How every figure looks, and how it becomes a file."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FuncFormatter

from tenfold.evaluation.metrics import shown
from tenfold.evaluation.plots.fonts import FONT, use_fonts_that_cover
from tenfold.files import note_own, write_bytes

# Okabe and Ito's palette (2008), distinguishable with every common kind of colour blindness.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#D4D4D4"
MOST_ROWS = 30  # of figures that give each class one
DPI = 200
"""Dots per inch of files."""
_TITLE_SIZE, _EDGE = 10.8, 6  # points
_TICK = {"color": MUTED, "labelcolor": INK, "labelsize": 8}
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.titlesize": _TITLE_SIZE,
    "figure.titleweight": "bold",
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "text.color": INK,
    "text.parse_math": False,
    **{f"{axis}tick.{key}": value for axis in "xy" for key, value in _TICK.items()},
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of this package, whatever the user's."""
    with matplotlib.style.context(["default", _STYLE, {"font.family": [FONT]}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float, title: str, note: str = "") -> Figure:
    """An empty figure, in inches, with a title above and a note at its foot."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    room = 72 * width - 2 * _EDGE
    figure.suptitle(fitting(shown(title, 80), room, _TITLE_SIZE, "bold"), x=0.08 / width, ha="left")
    if note:
        figure.supxlabel(fitting(note, room, 8), x=0.08 / width, ha="left", fontsize=8, color=MUTED)
    return figure


def fitting(text: str, width: float, size: float = 8, weight: str = "normal") -> str:
    """`text`, cut where it is wider than `width` points in type of that size."""
    font, text = FontProperties(size=size, weight=weight), shown(text, len(text) + 1)
    while TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] > width:
        text = shown(text, len(text) - 1)
    return text


def percent() -> FuncFormatter:
    """Shares on an axis as percentages."""
    return FuncFormatter(lambda share, _: f"{100 * share:.4g} %")


def to_png(figure: Figure, dpi: int | None = None) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes (no date, no software version)."""
    buffer = io.BytesIO()
    with styled():
        use_fonts_that_cover(figure)
        figure.savefig(buffer, format="png", dpi=dpi or DPI, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure to `path` as a PNG file, atomically, and note that it is no data. Raises `StorageError`."""
    write_bytes(path, to_png(figure))
    note_own(path)
