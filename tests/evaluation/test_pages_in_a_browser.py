"""The pages as people meet them: opened from disk in Chromium, without a network."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tenfold.data.corrections import apply_corrections, read_corrections
from tenfold.evaluation.compare import read_comparison, write_comparison
from tenfold.evaluation.metrics import shown
from tests.support.browser import chromium, violations
from tests.support.drawn_run import hostile_dataset, make_drawn_run
from tests.support.few_shapes import few_shapes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.acceptance
DATASET = hostile_dataset()
SHAPES = few_shapes()
NAMES = [shown(name) for name in DATASET.classes]
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "run"
    make_drawn_run(path, DATASET)
    return path


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Open]:
    """Open a file with the network off; at the end nothing may have been requested or printed."""
    contexts, wrong = [], []

    def open_file(path: Path, width: int = 1200, scheme: str = "light") -> "Page":
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True, device_scale_factor=1
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # on a busy machine Chromium is slow, which is not what is tested
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(open_page: Open, run: Path) -> "Page":
    return open_page(run / "report.html")


@pytest.fixture(scope="module")
def predictions(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels_of(image: "Locator", tmp_path: Path) -> np.ndarray:
    """What the screen shows of an image, at one pixel for each of its own: uint8 32×32×3."""
    image.scroll_into_view_if_needed()
    image.screenshot(path=tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as drawn:
        return np.asarray(drawn.convert("RGB").resize((32, 32), Image.Resampling.BOX)).astype(int)


def assert_shows(image: "Locator", number: int, tmp_path: Path) -> None:
    """Another image of the data set differs by far more than the resampling of the screenshot."""
    difference = np.abs(pixels_of(image, tmp_path) - DATASET.test.images[number].astype(int)).mean()
    assert difference < 12, f"test image {number}: off by {difference:.1f} grey levels in the mean"


def test_a_confusion_cell_opens_its_images(page: "Page", predictions: list[dict[str, str]], tmp_path: Path) -> None:
    wrong = Counter((row["true"], row["predicted"]) for row in predictions if row["correct"] == "False")
    (truth, predicted), count = wrong.most_common(1)[0]
    row, column = DATASET.classes.index(truth), DATASET.classes.index(predicted)
    page.locator(f".matrix button[data-truth='{row}'][data-predicted='{column}']").click()
    dialog = page.locator("dialog[open]")
    assert dialog.locator("h2").text_content() == f"{NAMES[row]}, predicted {NAMES[column]}"
    assert dialog.locator("li").count() == count
    own = [line for line in predictions if (line["true"], line["predicted"]) == (truth, predicted)]
    most_confident = max(own, key=lambda line: float(line["probability"]))
    first = dialog.locator("li").first
    assert f"test image {most_confident['index']}" == first.locator("figure").get_attribute("title")
    assert_shows(first.locator(".image"), int(most_confident["index"]), tmp_path)
    dialog.locator(".close").click()
    assert page.locator("dialog[open]").count() == 0


def test_the_first_images_are_the_first_images(page: "Page", tmp_path: Path) -> None:
    images = page.locator("#first .image")
    assert images.count() == 25
    for number in (0, 7, 24):
        assert_shows(images.nth(number), number, tmp_path)


def test_filters_filter(page: "Page", predictions: list[dict[str, str]]) -> None:
    mistakes = [row for row in predictions if row["correct"] == "False"]

    def count() -> int:
        return int((page.locator("#mistake-count").text_content() or "").split()[0].replace(",", ""))

    assert count() == len(mistakes)
    page.locator("[name=truth]").select_option(index=4)  # the first option is "any"
    of_class = [row for row in mistakes if row["true"] == DATASET.classes[3]]
    assert count() == len(of_class) > 0
    page.locator("[name=least]").fill("40")
    confident = [row for row in of_class if float(row["probability"]) >= 0.4]
    assert count() == len(confident) and len(confident) < len(of_class)
    page.locator("[name=predicted]").select_option(index=1)
    page.locator("[name=truth]").select_option(index=0)
    both = [r for r in mistakes if r["predicted"] == DATASET.classes[0] and float(r["probability"]) >= 0.4]
    assert count() == len(both)
    page.locator("[name=order]").select_option("least")
    if both:
        least = min(both, key=lambda row: float(row["probability"]))
        assert page.locator("#mistake-list figure").first.get_attribute("title") == f"test image {least['index']}"


def test_more_mistakes_are_shown_when_asked(page: "Page") -> None:
    before = page.locator("#mistake-list li").count()
    page.locator("#mistakes button.more").click()
    assert page.locator("#mistake-list li").count() > before == 60


def test_the_keyboard_reaches_the_images_of_a_cell(page: "Page") -> None:
    page.locator(".matrix button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    place = "[document.activeElement.dataset.truth, document.activeElement.dataset.predicted].join()"
    assert page.evaluate(place) == "1,1"
    assert page.locator(".matrix button[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert page.locator("dialog[open] h2").text_content() == f"{NAMES[1]}, correct"
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0 and page.evaluate(place) == "1,1"


def test_hostile_names_are_shown_as_text(page: "Page") -> None:
    assert page.locator(".matrix tbody th").all_text_contents() == NAMES
    assert page.locator("[name=truth] option").all_text_contents() == ["any", *NAMES]
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2


@pytest.mark.parametrize("width", [375, 320, 768])
def test_nothing_is_wider_than_the_screen(open_page: Open, run: Path, width: int) -> None:
    page = open_page(run / "report.html", width=width)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".matrix button").first.click()
    assert page.locator("dialog[open]").evaluate("(dialog) => dialog.scrollWidth - dialog.clientWidth") <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(open_page: Open, run: Path, scheme: str) -> None:
    page = open_page(run / "report.html", scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert violations(page) == []
    page.locator(".matrix button").first.click()
    assert violations(page) == []


def test_light_and_dark_differ(open_page: Open, run: Path) -> None:
    colours = [
        open_page(run / "report.html", scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours == ["rgb(251, 251, 249)", "rgb(21, 23, 26)"]


def test_it_prints_with_all_details_open(page: "Page", tmp_path: Path) -> None:
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator("#filters").is_visible()
    assert page.pdf(path=tmp_path / "report.pdf").startswith(b"%PDF")
    assert page.locator("details:not([open])").count() == 0


# --- review of labels ---


CARDS = "#review-list .card"


def saved(page: "Page") -> list[dict[str, str]]:
    """The rows of the file that Save downloads."""
    with page.expect_download() as download:
        page.locator("#review-save").click()
    assert download.value.suggested_filename == "corrections.csv"
    with Path(download.value.path()).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def most_confident_mistakes(predictions: list[dict[str, str]]) -> list[dict[str, str]]:
    wrong = [row for row in predictions if row["correct"] == "False"]
    return sorted(wrong, key=lambda row: -float(row["probability"]))


def test_labels_are_reviewed_by_keyboard(page: "Page", predictions: list[dict[str, str]], tmp_path: Path) -> None:
    """What is saved is what `train --corrections` reads: names that are markup, code or too long are whole in it."""
    mistakes = most_confident_mistakes(predictions)
    page.locator(CARDS).first.focus()
    assert_shows(page.locator(f"{CARDS} .image").first, int(mistakes[0]["index"]), tmp_path)
    for key in ("r", "d", "U", "ArrowRight", "k", "ArrowLeft", "d", "ArrowLeft", "Backspace"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.key") == f"test/{mistakes[4]['index']}"
    assert page.locator("#review-status").text_content() == (
        f"3 of {page.evaluate('DATA.review.items.length')} decided: 1 relabelled, 1 dropped, 1 unsure."
    )
    rows = saved(page)
    assert [(row["index"], row["given"], row["action"], row["label"]) for row in rows] == [
        (mistakes[0]["index"], mistakes[0]["true"], "relabel", mistakes[0]["predicted"]),
        (mistakes[1]["index"], mistakes[1]["true"], "drop", ""),
        (mistakes[2]["index"], mistakes[2]["true"], "unsure", ""),
    ]
    content = Path(tmp_path / "c.csv")
    with page.expect_download() as download:
        page.locator("#review-save").click()
    download.value.save_as(content)
    corrected = apply_corrections(DATASET, read_corrections(content))
    assert corrected.classes[corrected.test.labels[int(mistakes[0]["index"])]] == mistakes[0]["predicted"]
    assert len(corrected.test) == len(DATASET.test) - 1


def test_labels_are_reviewed_by_mouse(page: "Page") -> None:
    card = page.locator(CARDS).nth(1)
    card.get_by_role("button", name="Relabel").click()
    card.locator("select").focus()
    assert card.locator("select option").count() == len(NAMES)
    card.locator("select").select_option(index=7)
    assert card.get_attribute("aria-label").endswith(", relabelled")  # type: ignore[union-attr]
    assert saved(page)[0]["label"] == DATASET.classes[7]
    page.locator(CARDS).nth(2).get_by_role("button", name="Keep").click()
    assert [row["action"] for row in saved(page)] == ["relabel", "keep"]
    card.get_by_role("button", name="Relabel").click()
    assert card.locator("[aria-pressed=true]").count() == 0 and [r["action"] for r in saved(page)] == ["keep"]
    page.locator("[name=open]").check()
    shown_ = page.locator("#review-count").text_content() or ""
    assert int(shown_.split()[0].replace(",", "")) == page.evaluate("DATA.review.items.length") - 1


def test_choices_survive_a_reload_until_they_are_cleared(page: "Page") -> None:
    page.locator(CARDS).nth(3).get_by_role("button", name="Drop").click()
    page.reload()
    assert page.locator(CARDS).nth(3).get_by_role("button", name="Drop").get_attribute("aria-pressed") == "true"
    assert [row["action"] for row in saved(page)] == ["drop"]
    page.locator("#review-clear").click()
    page.reload()
    assert page.locator(f"{CARDS} [aria-pressed=true]").count() == 0
    assert page.locator("#review-save").is_disabled()


def test_one_card_is_a_stop_of_the_tabulator(page: "Page") -> None:
    """With its four buttons and its list of labels; the next stop is behind the list."""
    page.locator(CARDS).nth(1).focus()
    names = []
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent + document.activeElement.tagName"))
    assert names[:4] == ["KeepKBUTTON", "RelabelRBUTTON", "DropDBUTTON", "UnsureUBUTTON"]
    assert names[4].endswith("SELECT") and names[5] == "Show moreBUTTON"
    assert page.locator(f"{CARDS}[tabindex='0']").count() == 1


def test_earlier_corrections_are_saved_again(open_page: Open, tmp_path: Path) -> None:
    """Of a run that was trained with some; a label that is changed again keeps the first one as `given`."""
    names = np.array([f"{row}.png" for row in range(len(SHAPES.test))], object)
    data = replace(SHAPES, test=replace(SHAPES.test, names=names))
    train = replace(SHAPES.train, names=np.array([f"t{row}.png" for row in range(len(SHAPES.train))], object))
    data = replace(data, train=train)
    make_drawn_run(tmp_path / "first", data)
    first = open_page(tmp_path / "first" / "report.html")
    items = first.evaluate("DATA.review.items")[:41]
    first.locator(CARDS).first.focus()
    for key in "d" + 40 * "r":
        first.keyboard.press(key)
    with first.expect_download() as download:
        first.locator("#review-save").click()
    download.value.save_as(tmp_path / "c.csv")
    corrected = apply_corrections(data, read_corrections(tmp_path / "c.csv"))
    make_drawn_run(tmp_path / "second", corrected, seed=1)
    page = open_page(tmp_path / "second" / "report.html")
    before = saved(page)
    assert [row["path"] for row in before] == [item["path"] for item in items]
    assert [row["action"] for row in before] == ["drop", *(40 * ["relabel"])]
    given = {row["path"]: row["given"] for row in before}
    again = next(item["path"] for item in page.evaluate("DATA.review.items") if item["path"] in given)
    for action, kept in (("keep", "relabel"), ("unsure", "relabel"), ("drop", "drop")):
        page.evaluate("([key, action]) => choices.set(key, { action, label: '' })", [again, action])
        (row,) = (row for row in saved(page) if row["path"] == again)
        assert (row["given"], row["action"], len(saved(page))) == (given[again], kept, 41)


# --- several runs ---


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    paths = [folder / "<i>a", folder / "b"]
    for seed, path in enumerate(paths):
        make_drawn_run(path, SHAPES, seed, report=False)
    return write_comparison(paths, folder / "comparison.html", SHAPES).path


def test_disagreements_are_filtered_by_who_is_right(open_page: Open, comparison: Path, tmp_path: Path) -> None:
    page = open_page(comparison)
    one, other = (read_comparison([comparison.parent / name for name in ("<i>a", "b")], data=SHAPES).right).T
    page.locator("select.run").nth(0).select_option("right")
    page.locator("select.run").nth(1).select_option("wrong")
    count = (page.locator("#image-count").text_content() or "").split()[0]
    assert int(count) == (one & ~other).sum() > 0
    first = page.locator("#image-list figure").first
    number = int((first.get_attribute("title") or "").removeprefix("test image "))
    assert one[number] and not other[number]
    assert "<i>a" in (first.text_content() or "")
    difference = np.abs(pixels_of(first.locator(".image"), tmp_path) - SHAPES.test.images[number].astype(int)).mean()
    assert difference < 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_comparison_fits_and_is_accessible(open_page: Open, comparison: Path, scheme: str) -> None:
    page = open_page(comparison, width=375, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert violations(page) == []
