"""The page as people meet it: in Chromium, asking a real service."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tenfold.serving.predictor import BUNDLED, open_model
from tests.support.browser import chromium, violations
from tests.support.served import Service, Slow, in_thread, process, slow_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, JSHandle, Page, Route

pytestmark = pytest.mark.acceptance
Open = Callable[..., "Page"]
HOSTILE = "<img src=x onerror=alert(1)>.png"
MAKE_TRANSFER = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  return transfer;
}"""


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def grey(value: int) -> bytes:
    return png(np.full((8, 8, 3), value, np.uint8))


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The bundled model."""
    with process(BUNDLED, tmp_path_factory.mktemp("page")) as running:
        yield running


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Open]:
    """Open the page of a service; at the end nothing may have been asked of others, or said, that should not."""
    contexts, wrong = [], []

    def open_at(service: Service, path: str = "/", width: int = 1100, scheme: str = "light", **said: bool) -> "Page":
        origin = f"http://127.0.0.1:{service.port}"
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, permissions=["camera"]
        )
        contexts.append(context)
        page = context.new_page()
        if not said.get("may_complain"):
            page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: None if _is_own(request.url, origin) else wrong.append(request.url))
        page.goto(origin + path)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert wrong == []


def _is_own(url: str, origin: str) -> bool:
    return url.startswith((f"{origin}/", f"blob:{origin}/"))


def drop(page: "Page", content: bytes, name: str) -> None:
    page.dispatch_event("#drop", "drop", {"dataTransfer": _transfer(page, content, name)})


def paste(page: "Page", content: bytes, name: str) -> None:
    event = "(held) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: held }))"
    _transfer(page, content, name).evaluate(event)


def _transfer(page: "Page", content: bytes, name: str) -> "JSHandle":
    return page.evaluate_handle(MAKE_TRANSFER, [base64.b64encode(content).decode(), name])


def answered(page: "Page", remark: str = "confidence") -> tuple[str, str]:
    """Headline and remark, once the answer is there."""
    page.locator("#remark", has_text=remark).wait_for()
    headline, reply = (page.locator(place).inner_text().replace("\xa0", " ") for place in ("#said", "#remark"))
    return headline, reply


# --- ways to give a picture ------------------------------------------------------------------------------------------


def test_a_dropped_picture_is_answered_as_by_predict(service: Service, open_page: Open) -> None:
    rng = np.random.default_rng(1)
    content, model = png(rng.integers(0, 255, (60, 90, 3), np.uint8)), open_model()
    page = open_page(service)
    drop(page, content, "noise.png")
    headline, remark = answered(page)
    pixels = model.decode(content)
    (row,), distance = model.infer(pixels[None])
    order = np.argsort(-row, kind="stable")
    assert page.locator("#bars .label").all_inner_texts() == [model.classes[i] for i in order]
    shares = [float(text.split()[0]) / 100 for text in page.locator("#bars .share").all_inner_texts()]
    assert shares == pytest.approx(row[order], abs=6e-4)
    best, threshold = model.classes[order[0]], model.about.threshold
    if distance > model.about.distance_threshold:
        assert headline == "Unlike the training images" and f"Best class: {best}, " in remark
    elif threshold is not None and row.max() < threshold:
        assert headline == "Not sure" and remark.startswith(f"Best class: {best}, ")
    else:
        assert headline == best
    assert page.locator("#name").inner_text() == "noise.png"
    seen = "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    drawn = np.array(page.locator("#seen").evaluate(seen)).reshape(32, 32, 4)
    assert (drawn[..., :3] == pixels).all() and (drawn[..., 3] == 255).all()


def test_by_keyboard_alone(service: Service, open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(grey(90))
    page = open_page(service)
    page.on("filechooser", lambda chooser: chooser.set_files(tmp_path / "grey.png"))  # said early: it takes a while
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
    drawings = page.locator("#examples button").all_inner_texts()
    assert reached == ["Skip to the prediction", "Choose a file", "Take a photo", *drawings]
    page.keyboard.press("Enter")
    answered(page)
    assert page.locator("#name").inner_text() == f"A drawing: {drawings[-1]}"
    assert page.locator("#status").inner_text().startswith(page.locator("#said").inner_text())
    page.locator("#choose").focus()
    page.keyboard.press("Space")  # on Enter, Chromium without a window opens no chooser, not even a plain input's
    page.locator("#name", has_text="grey.png").wait_for()


def test_a_pasted_picture_and_a_photo(service: Service, open_page: Open) -> None:
    page = open_page(service)
    paste(page, grey(10), "pasted.png")
    page.locator("#name", has_text="pasted.png").wait_for()
    page.locator("#photograph").click()
    page.locator("#camera[open]").wait_for()
    page.locator("#video").evaluate("(v) => v.readyState >= 2 || new Promise((done) => (v.onloadeddata = done))")
    assert violations(page) == []
    page.locator("#take").click()
    page.locator("#name", has_text="Your photo").wait_for()
    assert page.locator("#video").evaluate("(video) => video.srcObject") is None


def test_every_drawing_is_answered(service: Service, open_page: Open) -> None:
    """At least four of six rightly, too: they are to be pleasant."""
    page = open_page(service)
    right = 0
    for name in page.locator("#examples button").all_inner_texts():
        page.locator("#examples button", has_text=name).click()
        page.locator("#name", has_text=name).wait_for()
        best = page.locator("#bars .label").first.inner_text()
        right += best == name
    assert right >= 4


# --- what it says ----------------------------------------------------------------------------------------------------


def test_hostile_names_are_shown_as_text(open_page: Open) -> None:
    """Put in as HTML, the first of them opens a dialog, or is refused by the policy, which says so."""
    with in_thread(slow_app(Slow())) as service:
        page = open_page(service)
        drop(page, grey(255), HOSTILE)
        assert answered(page) == ("<b>right</b>", "Confidence 100 %.")
        assert page.locator("#name").inner_text() == HOSTILE
        assert page.locator("#bars .label").all_inner_texts() == ["<b>right</b>", "left"]
        assert page.locator("b").count() == 0 and page.locator("img").count() == 1


def test_below_the_threshold_it_is_not_sure(open_page: Open) -> None:
    with in_thread(slow_app(Slow(threshold=0.8))) as service:
        page = open_page(service)
        drop(page, grey(178), "a.png")
        assert answered(page) == (
            "Not sure",
            "Best class: <b>right</b>, confidence 69.8 %, below the threshold of 80.0 %.",
        )
        drop(page, grey(25), "b.png")
        page.locator("#name", has_text="b.png").wait_for()
        assert answered(page) == ("left", "Confidence 90.2 %.")


def test_beyond_the_distance_threshold_it_is_unlike_the_training_images(open_page: Open) -> None:
    """The distance of this model is the mean of the pixels; that it is unsure, too, is said beside it."""
    with in_thread(slow_app(Slow(threshold=0.8, distance=150.0))) as service:
        page = open_page(service)
        drop(page, grey(255), "a.png")
        reply = "It may show none of these classes. Best class: <b>right</b>, confidence 100 %."
        assert answered(page) == ("Unlike the training images", reply)
        drop(page, grey(178), "b.png")
        page.locator("#name", has_text="b.png").wait_for()
        reply = "Best class: <b>right</b>, confidence 69.8 %, below the threshold of 80.0 %."
        assert answered(page) == ("Unlike the training images", f"It may show none of these classes. {reply}")
        drop(page, grey(25), "c.png")
        page.locator("#name", has_text="c.png").wait_for()
        assert answered(page, "Confidence") == ("left", "Confidence 90.2 %.")


def test_what_is_no_image_is_said(open_page: Open) -> None:
    with in_thread(slow_app(Slow())) as service:
        page = open_page(service, may_complain=True)  # Chromium reports each 400
        drop(page, b"hello", "a.png")
        headline, remark = answered(page, "not an image")
        assert headline == "No prediction" and remark.startswith("The image: not an image of a kind that is read here")
        assert not page.locator("#result").is_visible()


def test_a_token_is_asked_for(open_page: Open) -> None:
    with in_thread(slow_app(Slow(), token="correct horse")) as service:
        page = open_page(service, may_complain=True)
        assert answered(page, "Ask whoever runs this service for it.")[0] == "A token is needed"
        assert page.evaluate("document.activeElement.id") == "token"
        assert violations(page) == []
        drop(page, grey(255), "a.png")
        answered(page, "Ask whoever runs this service for it.")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        answered(page, "This token is wrong.")
        page.locator("#token").fill("correct horse")
        page.keyboard.press("Enter")
        assert answered(page)[0] == "<b>right</b>"  # of the picture that was given before
        assert not page.locator("#login").is_visible()
        page.reload()
        drop(page, grey(0), "b.png")
        assert answered(page)[0] == "left"  # the token is remembered
        page.locator("footer a").click()
        page.locator("#routes article").last.wait_for()


def test_the_interface_without_the_token_says_what_to_do(open_page: Open) -> None:
    with in_thread(slow_app(Slow(), token="correct horse")) as service:
        page = open_page(service, "/docs", may_complain=True)
        page.locator("#routes", has_text="a token is needed").wait_for()


def test_what_a_proxy_says_instead_is_told(service: Service, open_page: Open) -> None:
    """Without a look at the kind of answer: "Unexpected token '<' ... is not valid JSON"."""
    page = open_page(service, may_complain=True)

    def answer_with(status: int) -> "Callable[[Route], None]":
        return lambda route: route.fulfill(status=status, body="<html>No</html>")

    for status, said in ((413, "too large for the proxy"), (502, "did not answer (502)")):
        page.route("**/predict?*", answer_with(status))
        drop(page, grey(255), "a.png")
        assert answered(page, said)[0] == "No prediction"


def test_it_says_what_it_knows_and_offers_no_other_drawings(service: Service, open_page: Open) -> None:
    page = open_page(service)
    page.locator("#knows", has_text=f"Its classes: {', '.join(open_model().classes)}.").wait_for()
    assert page.locator("#examples button").count() == 6
    with in_thread(slow_app(Slow())) as other:
        page = open_page(other)
        page.locator("#knows", has_text="Its classes: left, <b>right</b>.").wait_for()
        assert not page.locator("#drawings").is_visible()


def test_what_holds_no_file_is_said(service: Service, open_page: Open) -> None:
    page = open_page(service)
    page.evaluate("document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: new DataTransfer() }))")
    assert answered(page, "That is not a file")[0] == "No prediction"


def test_a_picture_that_the_browser_cannot_show_is_answered(service: Service, open_page: Open) -> None:
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(content, "TIFF")
    page = open_page(service)
    drop(page, content.getvalue(), "a.tiff")
    answered(page)
    page.locator("#name", has_text="this browser cannot show").wait_for()
    assert not page.locator("#given").is_visible()


def test_a_service_that_has_ended_is_said(open_page: Open) -> None:
    with in_thread(slow_app(Slow())) as service:
        page = open_page(service, may_complain=True)
    drop(page, grey(255), "a.png")
    assert answered(page, "cannot be reached")[0] == "No prediction"


# --- how it looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_axe_finds_no_serious_violation(service: Service, open_page: Open, path: str, scheme: str) -> None:
    page = open_page(service, path, scheme=scheme)
    page.locator("#routes article, #examples canvas").last.wait_for()
    assert violations(page) == []
    if path == "/":
        page.locator("#examples button").first.click()
        answered(page)
        assert violations(page) == []


@pytest.mark.parametrize("width", [320, 375, 768])
def test_nothing_is_wider_than_the_screen(service: Service, open_page: Open, width: int) -> None:
    for path in ("/", "/docs"):
        page = open_page(service, path, width=width)
        if path == "/":
            page.locator("#examples button").first.click()
            answered(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_and_dark_differ(service: Service, open_page: Open) -> None:
    colours = [
        open_page(service, scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours == ["rgb(251, 251, 249)", "rgb(21, 23, 26)"]


# --- without what pages usually have ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "headline", "shares"),
    [
        (0.9997, "Confidence over 99.9 %.", ["> 99.9 %", "< 0.1 %"]),
        (0.9994, "Confidence 99.9 %.", ["99.9 %", "0.1 %"]),
        (1.0, "Confidence 100 %.", ["100 %", "0 %"]),
    ],
)
def test_only_all_is_a_hundred_percent(open_page: Open, probability: float, headline: str, shares: list[str]) -> None:
    """0.9997 was said to be 100 %, and 0.0003 to be 0 %."""
    slow = Slow()
    slow.classifier._run = lambda images: [np.tile(np.float32([1 - probability, probability]), (len(images), 1))]
    with in_thread(slow_app(slow)) as service:
        page = open_page(service)
        drop(page, grey(255), "a.png")
        assert answered(page) == ("<b>right</b>", headline)
        shown = [text.replace("\xa0", " ") for text in page.locator("#bars .share").all_inner_texts()]
        assert shown == shares


def test_without_scripts_there_are_no_dead_buttons(browser: "Browser", service: Service) -> None:
    """There were two, which did nothing. Now the page says what to do instead."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{service.port}/")
    assert page.locator("button:visible").count() == 0 and not page.locator("#answer").is_visible()
    said = page.locator("noscript").inner_text()
    assert "needs JavaScript" in said and "curl --data-binary @cat.png 'ADDRESS/predict?top=3'" in said
    page.goto(f"http://127.0.0.1:{service.port}/docs")
    assert "curl --data-binary @cat.png" in page.locator("#curl").inner_text()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bars_are_seen_in_forced_colours(service: Service, open_page: Open, scheme: str) -> None:
    """Windows' contrast themes replace colours of areas: bars had that of the page, and were not there."""
    page = open_page(service, scheme=scheme)
    page.emulate_media(forced_colors="active", color_scheme=scheme)
    drop(page, grey(90), "a.png")
    answered(page)
    colour = "(element) => getComputedStyle(element).backgroundColor"
    bar = page.locator("#bars .bar").first.evaluate(colour)
    assert bar != page.locator("body").evaluate(colour)
    assert bar == page.locator("body").evaluate("(element) => getComputedStyle(element).color")


def test_no_drawing_is_offered_before_the_classes_are_known(open_page: Open) -> None:
    """Without the token they are not: airplanes and frogs were offered by a model of flowers."""
    with in_thread(slow_app(Slow(), token="correct horse")) as service:
        page = open_page(service, may_complain=True)
        answered(page, "Ask whoever runs this service for it.")
        assert page.locator("#examples button:visible").count() == 0
