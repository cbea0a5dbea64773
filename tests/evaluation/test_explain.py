"""Maps against networks whose reasons are known, and the command."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tenfold
from tenfold import cli
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError, ImageError, UsageError
from tenfold.evaluation.explain import agree, explain, overlay, patch_side
from tenfold.training.augment import Normalization
from tenfold.training.weights import Model
from tests.support.drawn_run import make_drawn_run

IMAGES = make_shapes(train=1, test=3).test.images
PIXELS = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


class Corner(nn.Module):
    """Its first logit is the squared sum of the top left 8×8 pixels; the second is nothing."""

    def forward(self, x: Tensor) -> Tensor:
        first = 5 + x[:, :, :8, :8].sum((1, 2, 3)) ** 2 / 100
        return torch.stack((first, torch.zeros_like(first)), dim=1)


def test_evidence_lies_where_the_network_looks_and_sums_to_the_logit() -> None:
    network = Corner()
    for image, found in zip(IMAGES, explain(Model(network, ("a", "b"), 32, PIXELS), IMAGES), strict=True):
        pixels = PIXELS.normalize(torch.from_numpy(image[None]))
        gained = float(network(pixels)[0, 0] - network(torch.zeros_like(pixels))[0, 0])
        assert found.saliency.sum() == pytest.approx(gained, rel=1e-3)
        assert not found.saliency[8:].any() and not found.saliency[:, 8:].any()
        assert not found.occlusion[12:, 12:].any() and found.label == 0
        assert found.probabilities.sum() == pytest.approx(1) and np.array_equal(found.image, image)


def test_occlusion_is_the_loss_when_a_square_is_covered() -> None:
    """The top left pixels are covered by one square only, of 8×8, where the network looks."""
    network = Corner()
    (found,) = explain(Model(network, ("a", "b"), 32, PIXELS), IMAGES[:1])
    pixels = PIXELS.normalize(torch.from_numpy(IMAGES[:1]))
    covered = pixels.clone()
    covered[:, :, :8, :8] = 0
    lost = float(network(pixels)[0, 0] - network(covered)[0, 0])
    assert patch_side(32) == 8 and found.occlusion[:4, :4] == pytest.approx(lost, rel=1e-4)


def test_agreement_of_maps() -> None:
    ramp = np.outer(np.arange(32), np.ones(32)).astype(np.float32)
    assert agree(ramp, 3 * ramp + 1) == pytest.approx(1, abs=0.01)
    assert agree(ramp, -ramp) == pytest.approx(-1, abs=0.01)
    assert agree(ramp, ramp.T) == pytest.approx(0, abs=0.01) and agree(ramp, np.ones((32, 32))) == 0


def test_the_overlay_is_orange_for_and_blue_against() -> None:
    heat = np.zeros((32, 32), np.float32)
    heat[:8], heat[-8:] = 1, -1
    painted = overlay(np.full((32, 32, 3), 128, np.uint8), heat).astype(int)
    assert (painted[:6, :, 0] > painted[:6, :, 2] + 50).all() and (painted[-6:, :, 2] > painted[-6:, :, 0] + 50).all()
    assert np.ptp(painted[16], axis=-1).max() <= 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explained") / "run"
    make_drawn_run(path, make_shapes(train=800, test=20), report=False)
    return path


def test_the_command_draws_what_it_can_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(IMAGES[0]).resize((50, 40)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no image")
    out = tmp_path / "out"
    words = ["explain", str(run), str(tmp_path / "in"), "--out", str(out), "--json", "--top", "3"]
    for pngs in (["a.png"], ["a-2.png", "a.png"]):
        code = _invoke(monkeypatch, *words)
        text = capsys.readouterr()
        assert code == 8 and "b.png: not an image" in text.err and text.err.splitlines()[-1].endswith("be read")
        image, bad = json.loads(text.out)["images"]
        assert (Path(bad["path"]).name, bad["error"]) == ("b.png", text.err.splitlines()[0].partition("b.png: ")[2])
        assert sorted(path.name for path in out.glob("*.*")) == [".tenfold", *pngs]
    assert len(image["top"]) == 3 and image["label"] == image["top"][0]["label"] and -1 <= image["agreement"] <= 1
    assert image.keys() == {"path", "png", "label", "probability", "top", "explained", "agreement"}
    (by_name,) = tenfold.Run.open(run).explain(tmp_path / "in" / "a.png")
    assert by_name.to_dict(top=3) | {"png": image["png"]} == image
    with Image.open(image["png"]) as picture:
        assert picture.width > 750 and picture.width > 2 * picture.height


def test_the_classes_to_explain_can_be_given(run: Path) -> None:
    opened = tenfold.Run.open(run)
    (predicted,) = opened.explain(IMAGES[:1])
    other = (predicted.label + 1) % 10
    (explained,) = opened.explain(IMAGES[:1], labels=[other])
    assert (explained.label, explained.path) == (other, "image 0") and explained.top(1) == predicted.top(1)
    assert not np.array_equal(explained.occlusion, predicted.occlusion)
    name = opened.description.classes[other]
    assert explained.to_dict()["explained"] == name and repr(explained).startswith(f"Explanation({name!r}, prob")


@pytest.mark.parametrize(
    ("images", "labels", "kind", "message"),
    [
        (IMAGES[:2], [0], UsageError, "there are 1 labels and more images: give one label an image"),
        (IMAGES[:1], [10], UsageError, "label 10 is no number of one of the 10 classes"),
        (IMAGES[:1, :8], None, DataError, "images must be uint8 N×32×32×3, not uint8 1×8×32×3"),
        ("/no/such.png", None, ImageError, "^/no/such.png: "),
    ],
)
def test_what_cannot_be_explained_is_named_in_one_line(
    run: Path, images: Any, labels: list[int] | None, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised:
        tenfold.Run.open(run).explain(images, labels)
    assert "\n" not in str(raised.value)


def test_a_notebook_shows_the_plots(run: Path) -> None:
    found = tenfold.Run.open(run).explain(IMAGES[:2])
    assert found[0]._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"  # type: ignore[attr-defined]
    html = found._repr_html_()  # type: ignore[attr-defined]
    assert html.count("<img alt=") == html.count("data:image/png;base64,iVBOR") == 2


def test_nothing_to_explain_is_an_error(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _invoke(monkeypatch, "explain", str(run), str(tmp_path)) == 3
    assert "no images in" in capsys.readouterr().err
    assert _invoke(monkeypatch, "explain", str(tmp_path), "x.png") == 4


def _invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tenfold", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code if isinstance(ended.value.code, int) else 0
