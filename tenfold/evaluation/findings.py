"""What an audit finds, as dataclasses, as JSON and as text. Shares, accuracies and probabilities are in [0, 1]."""

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Self

import numpy as np

from tenfold.console import percent, plural
from tenfold.evaluation.duplicates import Pair
from tenfold.evaluation.labels import Issue
from tenfold.evaluation.seed_variance import SeedVariance

ISSUES = "label_issues.csv"


@dataclass(frozen=True)
class Part:
    """One part of an audit."""

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return {item.name: _to_plain(getattr(self, item.name)) for item in fields(self)}


def _to_plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.to_dict()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


@dataclass(frozen=True)
class Duplicates(Part):
    """Test images that duplicate a training image.

    images: how many were searched; count and share: how many of them are duplicates; in_place: without a shift or a
    mirror; labels_differ: of pairs with two labels. published_share: Barz and Denzler's (2020), None for other data.
    accuracy: on all test images; None where no image is left without duplicates, or none is one.
    """

    images: int
    count: int
    share: float
    in_place: int
    labels_differ: int
    published_share: float | None
    accuracy: float
    accuracy_without: float | None
    accuracy_on_duplicates: float | None
    pairs: tuple[Pair, ...] = field(repr=False)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**{**value, "pairs": tuple(Pair(**pair) for pair in value["pairs"])})


@dataclass(frozen=True)
class Corruptions(Part):
    """Accuracies, without TTA, on the first `images` test images, corrupted.

    clean_accuracy: on the same images as they are. accuracy: of each corruption at severities 1 to 5. mean_accuracy:
    of all of these; by_severity: their means over the corruptions.
    """

    images: int
    clean_accuracy: float
    mean_accuracy: float
    by_severity: tuple[float, ...]
    accuracy: Mapping[str, tuple[float, ...]] = field(repr=False)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        table = {name: tuple(shares) for name, shares in value["accuracy"].items()}
        return cls(**{**value, "by_severity": tuple(value["by_severity"]), "accuracy": table})


@dataclass(frozen=True)
class SplitIssues(Part):
    """Label issues of one split, the least probable given label first.

    agreement: the accuracy of the predictions that the labels are compared with. suspected: how many issues there are.
    """

    images: int
    agreement: float
    suspected: int
    issues: tuple[Issue, ...] = field(repr=False)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**{**value, "issues": tuple(Issue(**issue) for issue in value["issues"])})


@dataclass(frozen=True)
class LabelIssues(Part):
    """Labels that look wrong. train, test: None where they could not be checked; `missing` then says why."""

    train: SplitIssues | None
    test: SplitIssues | None
    missing: str | None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        splits = {name: SplitIssues.from_dict(value[name]) if name in value else None for name in ("train", "test")}
        return cls(**splits, missing=value["missing"])

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON, without a split that was not checked."""
        return {name: part for name, part in super().to_dict().items() if name == "missing" or part is not None}


@dataclass(frozen=True)
class SaliencyMap(Part):
    """Why test image `index` was taken for the class with number `label`, wrongly, with this probability.

    agreement: Spearman's rank correlation of saliency and occlusion, in [−1, 1]. overlays: the two maps, each painted
    over the image, as the bytes of uint8 S×S×3.
    """

    index: int
    agreement: float
    overlays: tuple[bytes, ...] = field(repr=False)
    label: int
    probability: float

    @property
    def images(self) -> tuple[np.ndarray, ...]:
        """The overlays as uint8 S×S×3."""
        side = [math.isqrt(len(content) // 3) for content in self.overlays]
        return tuple(np.frombuffer(c, np.uint8).reshape(s, s, 3) for c, s in zip(self.overlays, side, strict=True))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**{**value, "overlays": tuple(base64.b64decode(text) for text in value["overlays"])})


@dataclass(frozen=True)
class SaliencyMaps(Part):
    """The most confident mistakes, explained."""

    images: tuple[SaliencyMap, ...] = field(repr=False)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(tuple(SaliencyMap.from_dict(image) for image in value["images"]))


@dataclass(frozen=True, kw_only=True)
class AuditParts:
    """The parts of an audit that a run keeps; None for those that an interrupted audit did not reach."""

    duplicates: Duplicates | None = None
    corruptions: Corruptions | None = None
    labels: LabelIssues | None = None
    saliency: SaliencyMaps | None = None
    seed_variance: SeedVariance


@dataclass(frozen=True, kw_only=True, repr=False)
class Audit(AuditParts):
    """How far a run's test accuracy can be trusted."""

    duplicates: Duplicates
    corruptions: Corruptions
    labels: LabelIssues
    saliency: SaliencyMaps

    def __repr__(self) -> str:
        suspected = "unknown" if self.labels.test is None else f"{self.labels.test.suspected:,}"
        return (
            f"Audit({plural(self.duplicates.count, 'duplicate')}, {percent(self.corruptions.mean_accuracy)} accuracy "
            f"on corrupted images, {suspected} test label issues)"
        )

    def to_dict(self) -> dict[str, Any]:
        """All parts by name, ready for JSON."""
        return {item.name: getattr(self, item.name).to_dict() for item in fields(self)}


# --- as text ---


def format_audit(audit: Audit) -> list[str]:
    """The findings, a sentence per part."""
    return [
        _format_duplicates(audit.duplicates),
        _format_corruptions(audit.corruptions),
        *_format_labels(audit.labels),
        _format_seed_variance(audit.seed_variance),
    ]


def _format_duplicates(part: Duplicates) -> str:
    if not part.count:
        return f"no test image of {part.images:,} has a duplicate among the training images"
    found = f"{part.count:,} of {part.images:,} test images ({part.share:.2%}) duplicate a training image"
    if part.accuracy_without is None:
        return found
    return f"{found}; accuracy {part.accuracy:.2%} with duplicates, {part.accuracy_without:.2%} without"


def _format_corruptions(part: Corruptions) -> str:
    return (
        f"mean accuracy over {len(part.accuracy)} corruptions at 5 severities: {part.mean_accuracy:.2%}, against "
        f"{part.clean_accuracy:.2%} on the same {part.images:,} original images (without TTA); the 95 % margin "
        f"of one corruption and severity is ±{cell_margin(part.images):.1%}"
    )


def cell_margin(images: int) -> float:
    """Half width of the 95 % interval of an accuracy on so many images, at its largest (accuracy 0.5)."""
    return float(1.96 * (0.25 / images) ** 0.5)


def _format_labels(part: LabelIssues) -> list[str]:
    found = [
        f"{split.suspected:,} of {split.images:,} {name} labels look wrong: {ISSUES}"
        for name, split in (("train", part.train), ("test", part.test))
        if split
    ]
    return [*found, part.missing] if part.missing else found


def _format_seed_variance(part: SeedVariance) -> str:
    if part.missing:
        return f"seed variance: {part.missing}"
    return (
        f"test accuracy over the {part.n} runs of its bench: {part.mean:.2%} ± {part.std:.2%} (standard "
        f"deviation); a difference of two single runs is significant from {part.real_difference:.2%} on"
    )
