"""Images in shards: each once, in the same order, answered as on one machine."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError
from tenfold.scaling import shards as sharding
from tenfold.scaling.shards import find_shards, predict_shard, read_result
from tenfold.serving.inputs import find
from tenfold.serving.predict import answer
from tenfold.serving.predictor import Predictor, open_model


@pytest.fixture(scope="module")
def classifier() -> Predictor:
    return open_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pictures in two folders, one of them damaged, beside what is no picture and what is hidden."""
    path = tmp_path_factory.mktemp("pictures")
    (path / "more").mkdir()
    for i, image in enumerate(make_shapes(train=1, test=300).test.images):
        Image.fromarray(image).save(path / ("more" if i % 2 else "") / f"{i:03}.png")
    (path / "more" / "101.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (path / "notes.txt").write_text("no picture")
    (path / ".hidden.png").write_bytes(b"")
    return path


def rows(content: bytes) -> list[dict[str, object]]:
    return parquet.read_table(pa.BufferReader(content)).to_pylist()


def test_blocks_answer_as_one_machine_does(
    classifier: Predictor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "FILES", 128)
    shards = list(find_shards(str(folder)))
    assert [len(shard.names) for shard in shards] == [128, 128, 44] and len({shard.digest for shard in shards}) == 3
    far = [row for shard in shards for row in rows(predict_shard(classifier, shard, 2, False))]
    near = [prediction for batch in answer(classifier, find([str(folder)]), 2) for prediction in batch]
    assert [row["path"] for row in far] == [prediction.path for prediction in near]
    for row, prediction in zip(far, near, strict=True):
        flat = [value for guess in prediction.predictions for value in guess] or [None] * 4
        assert [row["label"], row["probability"], row["label_2"], row["probability_2"]] == flat
        assert row["error"] == prediction.error
    assert sum(row["error"] is not None for row in far) == 1


def test_a_result_names_its_shard(classifier: Predictor, folder: Path, tmp_path: Path) -> None:
    (shard,) = find_shards(str(folder))
    content = predict_shard(classifier, shard, 1, False)
    result = read_result(content)
    assert (result.shard, result.rows) == (shard.digest, 300)
    ((path, error),) = result.errors
    assert path == str(folder / "more" / "101.png") and error
    file = tmp_path / "part.parquet"
    file.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"part\.parquet is damaged: remove it"):
        read_result(file)


def test_a_uri_gives_the_same_pictures(classifier: Predictor, folder: Path) -> None:
    (near,), (far,) = find_shards(str(folder)), find_shards(folder.as_uri())
    assert sorted(far.names) == sorted(near.names)
    both = [rows(predict_shard(classifier, shard, 1, False)) for shard in (near, far)]
    by_path = [{row["path"]: (row["label"], row["error"] is None) for row in answers} for answers in both]
    assert by_path[0] == by_path[1]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "dictionary", "structure"])
def test_parquet_is_answered_row_by_row(classifier: Predictor, folder: Path, tmp_path: Path, kind: str) -> None:
    files = sorted(folder.glob("[0-9]*.png"))[:10]
    contents: list[object] = [file.read_bytes() for file in files] + [None]
    if kind == "structure":
        contents = [None if content is None else {"bytes": content, "path": "x"} for content in contents]
    images = pa.array(contents, getattr(pa, kind)() if kind.startswith(("large", "binary_")) else None)
    images = images.dictionary_encode() if kind == "dictionary" else images
    parquet.write_table(pa.table({"image": images, "other": range(11)}), tmp_path / "a.parquet", row_group_size=4)
    shards = list(find_shards(str(tmp_path), "image"))
    assert [shard.group for shard in shards] == [0, 1, 2]
    far = [row for shard in shards for row in rows(predict_shard(classifier, shard, 1, False))]
    near = [prediction for batch in answer(classifier, find(map(str, files)), 1) for prediction in batch]
    assert [row["label"] for row in far] == [prediction.predictions[0][0] for prediction in near] + [None]
    np.testing.assert_allclose([row["probability"] for row in far[:10]], [t.predictions[0][1] for t in near], atol=1e-6)
    assert (far[4]["path"], far[10]["error"]) == (f"{tmp_path}/a.parquet#1.0", "no bytes in this row")


def test_rows_without_bytes_are_named_one_by_one(classifier: Predictor, tmp_path: Path) -> None:
    """Also where none has any, and the column's type is that of nothing."""
    parquet.write_table(pa.table({"image": pa.nulls(3)}), tmp_path / "a.parquet")
    (shard,) = find_shards(str(tmp_path), "image")
    assert [row["error"] for row in rows(predict_shard(classifier, shard, 1, False))] == ["no bytes in this row"] * 3


@pytest.mark.parametrize(
    ("source", "column", "said"),
    [
        ("missing", "", "missing is not there"),
        ("missing", "image", "missing is not there"),
        ("empty", "", "no images in"),
        ("empty", "image", "no parquet files in"),
        ("wrong", "image", "has no column 'image': it has picture, label, meta"),
        ("wrong", "label", "column 'label' is of type string; wanted are the bytes of image files"),
        ("wrong", "meta", r"column 'meta' is of type struct<path: string>; wanted are"),
        ("bad", "image", r"x\.parquet: "),
        ("file:///missing", "", "file:///missing is not there"),
        ("gopher://x/y", "", "gopher://x/y: "),
    ],
)
def test_a_source_that_is_none_is_named(tmp_path: Path, source: str, column: str, said: str) -> None:
    for name in ("empty", "wrong", "bad"):
        (tmp_path / name).mkdir()
    parquet.write_table(
        pa.table({"picture": [b"x"], "label": ["cat"], "meta": [{"path": "x"}]}), tmp_path / "wrong" / "x.parquet"
    )
    (tmp_path / "bad" / "x.parquet").write_bytes(json.dumps({}).encode())
    with pytest.raises(DataError, match=said):
        list(find_shards(source if "://" in source else str(tmp_path / source), column))
