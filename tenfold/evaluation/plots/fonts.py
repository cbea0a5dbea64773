"""Letters → installed fonts that have them, for class names in any script; one warning where there is none."""

import functools
import unicodedata
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from tenfold.console import log_info

FONT = "DejaVu Sans"
"""Comes with Matplotlib; has Latin, Greek, Cyrillic, Arabic and Hebrew letters, but neither CJK nor Indian ones."""
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH")
_INVISIBLE = {"Mn", "Me", "Cf", "Zs", "Cc"}  # accents and joiners belong to the letters beside them


def use_fonts_that_cover(figure: Figure) -> None:
    """Let texts fall back on installed fonts for the letters that `FONT` lacks; warn once of letters in none."""
    texts = figure.findobj(Text)
    letters = {letter for text in texts for letter in text.get_text()}
    missing = frozenset(c for c in letters - {"\n"} if unicodedata.category(c) not in _INVISIBLE) - _own_letters()
    if not missing:
        return
    names, uncovered = find_fonts(missing)
    for text in texts:
        text.set_family([FONT, *names])  # type: ignore[attr-defined]
    if uncovered:
        _warn(_advice(uncovered))


@functools.cache
def find_fonts(missing: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of installed fonts that have these letters, as few as will do, and the letters that none of them has."""
    names: list[str] = []
    while missing:
        gains = {name: len(missing & letters) for name, letters in _installed().items()}
        best = max(gains, key=lambda name: (gains[name], "Sans" in name), default=FONT)
        if not gains.get(best):
            break
        names.append(best)
        missing -= _installed()[best]
    return tuple(names), missing


def _own_letters() -> frozenset[str]:
    return _letters(font_manager.findfont(FONT))


def _installed() -> dict[str, frozenset[str]]:
    """Letters by font, of upright fonts of usual weight that Matplotlib can draw."""
    entries = font_manager.fontManager.ttflist
    usual = {
        entry.name: entry.fname for entry in entries if entry.style == "normal" and entry.weight in (400, "normal")
    }
    return {name: _letters(path) for name, path in sorted(usual.items()) if "LastResort" not in name.replace(" ", "")}


@functools.cache
def _letters(path: str) -> frozenset[str]:
    """Letters of a font file; none where it holds coloured bitmaps, as those of emoji do, or cannot be read."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()


def _advice(uncovered: Iterable[str]) -> str:
    letters = sorted(uncovered)
    named = [unicodedata.name(letter, "") for letter in letters]
    package = "Noto Sans (Debian: apt-get install fonts-noto-core)"
    if any(name.startswith(_CJK) for name in named):
        package = "Noto Sans CJK (Debian: apt-get install fonts-noto-cjk)"
    elif all(unicodedata.category(letter) == "So" for letter in letters):
        package = "one with outlines, such as Noto Emoji (not Noto Color Emoji)"
    some = " ".join(letters[:5]) + (" …" if len(letters) > 5 else "")
    return f"plots: no installed font has {some}, which show as boxes: install {package}"


@functools.cache
def _warn(advice: str) -> None:
    """Once for each set of letters."""
    log_info(advice)
