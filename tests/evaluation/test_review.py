"""What the page's script knows of the images whose labels are to be reviewed."""

from dataclasses import replace

import numpy as np

from tenfold.data.corrections import apply_corrections, parse_corrections
from tenfold.data.shapes import make_shapes
from tenfold.evaluation.findings import AuditParts, LabelIssues, SplitIssues
from tenfold.evaluation.labels import Issue
from tenfold.evaluation.page import trust_section
from tenfold.evaluation.page.review import ISSUES, MISTAKES, issue_doubts, mistake_doubts, review_data
from tenfold.evaluation.seed_variance import SeedVariance

DATA = make_shapes(train=60, test=40)


def issues(count: int) -> SplitIssues:
    found = tuple(Issue(number, 0, 1, 0.1, 0.9 - number / 1000) for number in range(count))
    return SplitIssues(60, 0.9, count, found)


def audited(train: int, test: int) -> AuditParts:
    return AuditParts(labels=LabelIssues(issues(train), issues(test), None), seed_variance=SeedVariance(missing="none"))


def test_label_issues_and_mistakes_are_one_list() -> None:
    """Test image 2 is both: it comes once, as a label issue, with its place on the sheet of the audit."""
    values, _ = trust_section(audited(2, 3), DATA)
    labels = np.zeros(40, int)
    predicted = np.zeros(40, int)
    predicted[[2, 5, 7]] = 3
    confidence = np.linspace(0.2, 0.9, 40)
    doubts = [*issue_doubts(values), *mistake_doubts(np.arange(1, 8), labels, predicted, confidence)]
    data = review_data(DATA, "key", doubts)
    found = [(item["split"], item["index"], item["image"], item["why"]) for item in data["items"]]
    assert found == [
        ("test", "0", "more i0", [ISSUES["test"]]),
        ("test", "1", "more i1", [ISSUES["test"]]),
        ("test", "2", "more i2", [ISSUES["test"], MISTAKES]),
        ("train", "0", "more i3", [ISSUES["train"]]),
        ("train", "1", "more i4", [ISSUES["train"]]),
        ("test", "7", "i6", [MISTAKES]),
        ("test", "5", "i4", [MISTAKES]),
    ]
    assert data["items"][2]["suggested"] == 1 and data["items"][5]["suggested"] == 3
    assert [item["name"] for item in data["items"][2:4]] == ["test image 2", "training image 0"]


def test_more_issues_are_reviewed_than_shown() -> None:
    values, style = trust_section(audited(50, 0), DATA)
    assert values is not None
    gallery = values["labels"]["galleries"][1]
    assert (gallery["shown"], len(gallery["issues"])) == (24, 50) and ".i49" in style


def test_numbers_are_those_before_images_were_left_out() -> None:
    """Names on the page count as predictions.csv does; the file counts as the data set does."""
    corrections = parse_corrections(b"split,index,action,label\ntest,1,drop,\ntrain,3,relabel,star\n")
    data = apply_corrections(DATA, corrections)
    doubts = mistake_doubts(np.arange(3), np.zeros(39, int), np.array([0, 1, 0] + 36 * [0]), np.ones(39))
    found = review_data(data, "key", doubts)
    assert [(item["index"], item["name"]) for item in found["items"]] == [("2", "test image 1")]
    assert [(row["split"], row["index"], row["action"], row["label"]) for row in found["earlier"]] == [
        ("test", "1", "drop", ""),
        ("train", "3", "relabel", "star"),
    ]


def test_files_are_named_by_path_and_content() -> None:
    names, digests = (np.array([f"{kind}{row}" for row in range(40)], object) for kind in ("a/<b>", "digest"))
    data = replace(DATA, test=replace(DATA.test, names=names, digests=digests))
    (item,) = review_data(data, "", mistake_doubts(np.arange(1), np.zeros(40), np.ones(40), np.ones(40)))["items"]
    assert (item["path"], item["sha256"], item["index"]) == ("a/<b>0", "digest0", "")
