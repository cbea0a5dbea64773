"""16-bit files that use fewer bits: measured over a folder, recorded in the model, the same wherever it is used."""

import io
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.data.check import check_folder
from tenfold.data.folder import load_folder
from tenfold.data.image import Decoded, decode, decode_measured, decode_whole
from tenfold.errors import ImageError
from tests.support.images import png, save, tiff

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

VALUES = [0, 15, 16, 2_048, 4_095, 40_000]  # of 12 bits, the last beyond them
BYTES = [0, 0, 1, 128, 255, 255]  # value / 16, 255 at most
WHOLE = [0, 0, 0, 8, 15, 156]  # value / 256
BIG = struct.pack(">6H", *VALUES)
WORDS = np.array([VALUES], np.uint16)


def colours(order: str, *more: int) -> bytes:
    """Each value as red, 0 as green, 16 as blue, and `more`."""
    return b"".join(struct.pack(f"{order}{3 + len(more)}H", value, 0, 16, *more) for value in VALUES)


FILES: dict[str, tuple[bytes, bool]] = {
    # and whether it is grey
    "PNG": (png(6, 16, 0, [BIG]), True),
    "PNG, RGB": (png(6, 16, 2, [colours(">")]), False),
    "PNG, RGBA": (png(6, 16, 6, [colours(">", 65_535)]), False),
    "PNG, grey and alpha": (png(6, 16, 4, [b"".join(struct.pack(">HH", v, 65_535) for v in VALUES)]), True),
    "TIFF": (tiff(WORDS, 1), True),
    "TIFF, LZW": (save(Image.fromarray(WORDS), "TIFF", compression="tiff_lzw"), True),
    "TIFF, RGB": (tiff(np.frombuffer(colours("<"), np.uint16).reshape(1, 6, 3), 2), False),
    "TIFF, RGBA": (tiff(np.frombuffer(colours("<", 65_535), np.uint16).reshape(1, 6, 4), 2), False),
}


@pytest.mark.parametrize("name", FILES)
def test_values_are_scaled_by_as_many_bits_as_are_used(name: str) -> None:
    """Worked out by hand; of all 16 bits the pixels are what they always were."""
    content, grey = FILES[name]
    for depth, red, blue in ((12, BYTES, 1), (16, WHOLE, 0)):
        expected = np.array([[[r, r, r] if grey else [r, 0, blue] for r in red]], np.uint8)
        np.testing.assert_array_equal(decode_whole(content, bit_depth=depth), expected)
    np.testing.assert_array_equal(decode(content, 6, bit_depth=8)[0, :2, 0], [0, 15])


def test_transparency_is_found_among_all_bits() -> None:
    one = struct.pack(">3H", 16, 0, 16)
    content = png(6, 16, 2, [colours(">")], tRNS=one)
    assert decode_whole(content, bit_depth=12)[0, :, 1].tolist() == [0, 0, 255, 0, 0, 0]
    half = png(1, 16, 6, [struct.pack(">4H", 0, 2_048, 4_095, 0x3333)])  # a fifth of the colour, the rest white
    assert decode_whole(half, bit_depth=12).tolist() == [[[204, 230, 255]]]
    assert decode_whole(png(2, 16, 0, [b"\0\x10\0\x20"], tRNS=b"\0\x10"), bit_depth=12)[0, :, 0].tolist() == [255, 2]


def test_other_files_do_not_depend_on_it() -> None:
    for content in (
        png(2, 8, 0, [b"\x03\x40"]),
        save(np.full((2, 2, 3), 99, np.uint8), "PNG"),
        tiff(np.array([[0x80, 0x01, 0x23]], np.uint8), 1, bits=12),
    ):
        np.testing.assert_array_equal(decode_whole(content, bit_depth=8), decode_whole(content))


def test_16_bits_that_are_cut_short_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 2**12, (20, 20), np.uint16)
    content = save(Image.fromarray(noise), "PNG")
    with pytest.raises(ImageError, match="cut short"):
        decode_whole(content[:-300], bit_depth=12)


# --- a folder ---------------------------------------------------------------------------------------------------------


def deep(most: int, seed: int) -> bytes:
    values = np.random.default_rng(seed).integers(0, most + 1, (8, 8)).astype(np.uint16)
    values[0, 0] = most
    return save(Image.fromarray(values), "PNG")


def fill(root: Path, most: int = 4_095, count: int = 24) -> Path:
    """Two classes: noise of 16-bit values up to `most`, one of them darker; every fourth file has 8 bits."""
    for number in range(count):
        for name, share in (("dark", 4), ("light", 1)):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            plain = np.random.default_rng(number).integers(0, 256 // share, (8, 8, 3)).astype(np.uint8)
            seed = 1_000 * share + number
            path.write_bytes(save(plain, "PNG") if number % 4 == 3 else deep(most // share, seed))
    return root


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    """A cache of its own for every test."""


def pixels_by_hand(content: bytes, bits: int) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        values = np.asarray(image)
    grey = values if values.ndim == 3 else np.repeat((values >> (bits - 8))[..., None], 3, axis=2)
    return grey.astype(np.uint8)


@pytest.mark.parametrize(("most", "bits"), [(4_095, 12), (1_000, 10), (65_535, 16), (200, 8), (4_096, 13)])
def test_a_folder_is_scaled_by_its_own_range(
    tmp_path: Path, most: int, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The smallest range of whole bits that holds them all; 8-bit files beside them stay as they are."""
    root = fill(tmp_path / "cells", most)
    dataset = load_folder(root, size=8)
    assert dataset.bit_depth == bits and dataset.origin and dataset.origin.bit_depth == bits
    for part in (dataset.train, dataset.test):
        assert part.names is not None
        for pixels, name in zip(part.images, part.names, strict=True):
            np.testing.assert_array_equal(pixels, pixels_by_hand((root / name).read_bytes(), bits))
    said = f"36 images with 16-bit values: 0 to {2**bits - 1:,} ({bits} bits) are scaled to 0 to 255\n"
    assert (said in capsys.readouterr().err) == (bits < 16)


def test_a_folder_read_as_a_model_wants_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its own range is; the pixels of both are kept, and told apart."""
    root = fill(tmp_path / "cells")
    own, whole = load_folder(root, size=8), load_folder(root, size=8, bit_depth=16)
    few = load_folder(root, size=8, bit_depth=10)
    assert (own.bit_depth, whole.bit_depth, few.bit_depth) == (12, 16, 10)
    assert "they go up to 4,095 (12 bits): what is beyond is white" in capsys.readouterr().err
    names = own.train.names
    assert names is not None
    for dataset, bits in ((own, 12), (whole, 16), (load_folder(root, size=8), 12)):
        np.testing.assert_array_equal(dataset.train.images[0], pixels_by_hand((root / names[0]).read_bytes(), bits))
    assert few.train.images.max() == 255


def test_a_folder_is_decoded_once(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, twice: once to find its range. Files that come before one of a wider range are decoded again.

    Asking for the range that the folder has takes what is kept.
    """
    decoded: list[int] = []

    def count(content: bytes, bit_depth: int = 16) -> Decoded:
        decoded.append(bit_depth)
        return decode_measured(content, bit_depth=bit_depth)

    monkeypatch.setattr("tenfold.data.image_cache.decode_measured", count)
    monkeypatch.setattr("tenfold.data.image_cache.cores", lambda: 1)
    root = tmp_path / "cells"
    for number in range(20):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(deep(4_095, number))
    own = load_folder(root, size=8)
    assert decoded == [8] + 20 * [12]
    asked = load_folder(root, size=8, bit_depth=12)
    np.testing.assert_array_equal(own.train.images, asked.train.images)
    assert len(decoded) == 21 and len(list((home / "data" / "folders").iterdir())) == 1
    decoded.clear()
    (root / "b" / "99.png").write_bytes(deep(65_535, 99))
    assert load_folder(root, size=8).bit_depth == 16
    assert decoded == [8, *21 * [12], 16, *20 * [16]]


def test_what_was_kept_of_another_range_goes(tmp_path: Path, home: Path) -> None:
    """Before, the pixels of each range that a folder ever had stayed in the cache."""
    root = fill(tmp_path / "cells", 4_095, 8)
    for bits in (None, 10, 9):
        load_folder(root, size=8, bit_depth=bits)
    assert len(list((home / "data" / "folders").iterdir())) == 3
    fill(root, 1_000, 8)
    assert load_folder(root, size=8).bit_depth == 10
    assert len(list((home / "data" / "folders").iterdir())) == 1


def test_the_check_tells_the_range(tmp_path: Path) -> None:
    (found,) = [f for f in check_folder(fill(tmp_path / "cells")).issues if f.kind == "value range"]
    assert found.severity == "warning" and len(found.paths) == 36
    assert found.what == "36 images with 16-bit values, of which 0 to 4,095 (12 bits) are used"
    assert not [f for f in check_folder(fill(tmp_path / "full", 65_535)).issues if f.kind == "value range"]


# --- a model ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Iterator[Path]:
    """A run on 12-bit images, exported; its folder lies beside it."""
    from tenfold.evaluation.evaluate import evaluate, write_scores
    from tenfold.serving.export import export
    from tenfold.training import train as training
    from tenfold.training.recipe import Recipe

    place = tmp_path_factory.mktemp("deep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(place / "home"))
        dataset = load_folder(fill(place / "cells"))
        recipe = Recipe.from_json(tiny_recipe.read_bytes()).with_epochs(1.0)
        done = training.train(recipe.for_images(len(dataset.train)), dataset, place / "run", seed=0, device="cpu")
        write_scores(done.run, evaluate(done.run, done.dataset, done.device_config), {})
        done.run.unlock()
        export(done.run)
    yield place


@pytest.mark.train
def test_the_range_travels_with_the_model(trained: Path) -> None:
    """In model.json and in the file's own metadata; the pixels are those of training."""
    from tenfold.serving.model_file import ModelMetadata
    from tenfold.serving.predictor import open_model
    from tenfold.serving.serve.decoders import Decoders
    from tenfold.serving.serve.limits import Limits
    from tenfold.training.provenance import other_data, reload_dataset
    from tenfold.training.run import Run

    run = Run.open(trained / "run")
    assert run.description.bit_depth == 12 and reload_dataset(run).bit_depth == 12
    assert json.loads((run.path / "env.json").read_text())["folder"]["bit_depth"] == 12
    model = open_model(run.path / "model.onnx")
    assert model.about.bit_depth == 12
    content = (trained / "cells" / "light" / "0.png").read_bytes()
    expected = decode(content, 32, bit_depth=12)
    np.testing.assert_array_equal(model.decode(content), expected)
    assert expected.max() > 200 > 20 > decode(content, 32).max()
    decoders = Decoders(1, 32, "stretch", Limits(), model.about.bit_depth)
    try:
        np.testing.assert_array_equal(decoders.decode(content), expected)
    finally:
        decoders.close()
    other = other_data(run, str(fill(trained / "others", 65_535, 8)))
    assert other.bit_depth == 12
    values = model.about.to_json()
    values["classes"] = list(values["classes"])
    assert ModelMetadata.from_json(values) == model.about
    del values["bit_depth"]  # as files of before
    assert ModelMetadata.from_json(values).bit_depth == 16
    with pytest.raises(ValueError, match="bit_depth is missing or wrong"):
        ModelMetadata.from_json(values | {"bit_depth": 17})


@pytest.mark.train
def test_a_run_of_before_reads_its_folder_as_before(trained: Path) -> None:
    """Without a word about bits in it: all 16, as it was trained."""
    from tenfold.training.provenance import reload_dataset
    from tenfold.training.run import Run

    old = trained / "old"
    shutil.copytree(trained / "run", old)
    env = json.loads((old / "env.json").read_text())
    del env["folder"]["bit_depth"]
    (old / "env.json").write_text(json.dumps(env))
    assert reload_dataset(Run.open(old)).bit_depth == 16
