"""The profile of a step: its sizes by hand, and which directions exist."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch.autograd.profiler_util import FunctionEvent

import tenfold
from tenfold.errors import UsageError
from tenfold.training import kernels, profile
from tenfold.training.networks import WhitenedSpec
from tenfold.training.profile import LEFT, Part, StepProfile, profile_step
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.recipes import FAST89
from tenfold.training.speed import matmul_gflops
from tenfold.training.trainer import Trainer
from tests.support.process import Invoke

pytestmark = pytest.mark.slow

KINDS_HERE = ("kernels",) if kernels.library().functions else ("activations", "pooling", "norms")
TINY = replace(
    FAST89,
    network=replace(WhitenedSpec(), widths=(8, 16), whitening_pairs=4),
    stages=(Stage(2.0, 0.2, 0.0),),
    batch_size=16,
)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """The ceiling is measured in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "matmul_gflops", lambda dtype: matmul_gflops(dtype, size=64, seconds=0.01))
        yield


@pytest.fixture(scope="module")
def profiled(quick: None) -> StepProfile:
    shapes = tenfold.load("shapes")
    return profile_step(TINY, shapes.train, len(shapes.classes))


def test_every_direction_that_a_step_takes_is_there_with_its_size(profiled: StepProfile) -> None:
    # 2 × images × places × channels out × channels in × 9, in GFLOP
    first = 2e-9 * 16 * 32 * 32 * 8 * 3 * 9
    by_name = {(part.name, part.direction): part.gflop for part in profiled.parts if part.direction}
    assert by_name[("patch", "forward")] == pytest.approx(first)
    assert ("patch", "backward") not in by_name, "the first layer is fixed"
    for direction, products in (("forward", 1), ("backward", 2)):  # to the input, to the weights
        assert by_name[("groups.0.convs.0", direction)] == pytest.approx(products * 2e-9 * 16 * 32 * 32 * 8 * 8 * 9)
        assert by_name[("groups.1.convs.0", direction)] == pytest.approx(products * 2e-9 * 16 * 16 * 16 * 16 * 8 * 9)
        assert by_name[("groups.1.convs.1", direction)] == pytest.approx(products * 2e-9 * 16 * 8 * 8 * 16 * 16 * 9)
    assert profiled.gflop == pytest.approx(sum(size for size in by_name.values() if size))


def test_what_is_no_convolution_is_timed_too(profiled: StepProfile) -> None:
    *_, left = rest = [part for part in profiled.parts if part.gflop is None]
    first, *kinds, optimizers, _ = [(part.name, part.direction) for part in rest]
    assert (first, optimizers) == (("batch and augmentation", ""), ("optimizers", ""))
    assert {(kind, direction) for kind in KINDS_HERE for direction in ("forward", "backward")} <= set(kinds)
    assert len(set(kinds)) == len(kinds) and {kind for kind, _ in kinds} <= set(profile.KINDS)
    assert all(part.milliseconds > 0 and part.rate is None for part in rest[:-1])
    assert sum(part.milliseconds for part in profiled.parts) == pytest.approx(profiled.milliseconds), "nothing is lost"
    assert left.name == LEFT


def parts_of(recipe: Recipe) -> list[Part]:
    trainer = Trainer(replace(recipe, val_size=0), tenfold.load("shapes"), device="cpu")
    for _ in range(profile.WARM_UP):
        trainer.train_step()
    return list(profile._rest(trainer))


def test_a_proxy_is_a_row_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operation takes a millisecond here. Without `_within` a proxy's were counted as the network's, too."""
    monkeypatch.setattr(FunctionEvent, "self_cpu_time_total", 1e3)
    by_proxy = replace(TINY, prune_fraction=0.0, proxy_prune_fraction=0.5, proxy_widths=(8,))
    before, after = parts_of(TINY), parts_of(by_proxy)
    assert [part.name for part in after] == [*(part.name for part in before), "proxy"]
    assert after[-1].milliseconds > 0
    assert [part.milliseconds for part in after if part.direction] == [p.milliseconds for p in before if p.direction]


def test_rates_are_size_over_time() -> None:
    parts = (Part("a", "forward", 20.0, 6.0), Part("pooling", "", 5.0))
    assert parts[0].rate == pytest.approx(300)
    whole = StepProfile(parts, 500, milliseconds=40.0, ceiling=600.0, dtype="bfloat16")
    assert whole.share_of_ceiling == pytest.approx(0.25)


def test_a_recipe_of_too_few_steps_is_refused() -> None:
    shapes = tenfold.load("shapes")
    with pytest.raises(UsageError, match="too few to profile"):
        profile_step(TINY.with_epochs(0.1), shapes.train, len(shapes.classes))


def test_the_command_prints_the_parts_as_json_and_as_a_table(
    invoke: Invoke, tiny_recipe: Path, profiled: StepProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("profile", "--recipe", tiny_recipe, "--data", "shapes")
    answer = json.loads(invoke(*words, "--json")[1])
    assert (answer["recipe"], answer["batch_size"]) == ("tiny", 50)
    assert sum(part["milliseconds"] for part in answer["parts"]) == pytest.approx(answer["milliseconds"])
    monkeypatch.setattr(profile, "profile_step", lambda *_: profiled)
    code, out, _ = invoke(*words)
    assert code == 0 and "whole step" in out and out.splitlines()[-1].startswith("16 images a step; ceiling: ")
