"""Several processes that train one network together, each on its share of every batch: what torchrun starts.

Each rank holds the whole network, the whole data and the same keyed randomness, so all that travels is sums: of the
gradients, of what the losses were, and of norms' statistics. After every step all ranks hold the same numbers. Only the
first rank writes.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tenfold.errors import RankLostError, UsageError


@dataclass(frozen=True)
class DistContext:
    """Which of how many this process is, in all and on its machine; alone, nothing travels and nothing is computed."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this rank where `name` is asked for: on a machine with GPUs, each rank has one of its own."""
        shared = name == "cuda" or (name == "auto" and torch.cuda.is_available())
        return f"cuda:{self.local}" if self.count > 1 and shared else name

    def shard(self, images: int) -> slice:
        """This rank's part of a batch; ranks follow each other. Raises `UsageError` where one would have nothing."""
        if images < self.count:
            raise UsageError(f"a batch of {images} images is too small for {self.count} ranks: start fewer")
        return slice(images * self.rank // self.count, images * (self.rank + 1) // self.count)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of the same device and dtype by their sums over all ranks. Raises `RankLostError`."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _travelling():
            torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def all_gather(self, part: Tensor, images: int) -> Tensor:
        """All ranks' parts of a batch (one number an image), in order. Raises `RankLostError`."""
        if self.count == 1:
            return part
        whole = part.new_zeros(images)
        whole[self.shard(images)] = part
        self.all_reduce([whole])
        return whole

    def any(self, flag: bool) -> bool:
        """Whether it is so on one of the ranks at least; all get the same answer. Raises `RankLostError`."""
        flags = torch.tensor([float(flag)])
        self.all_reduce([flags])
        return bool(flags)

    def broadcast(self, value: Any) -> Any:
        """The first rank's value (it is pickled on its way). Raises `RankLostError`."""
        if self.count == 1:
            return value
        box = [value]
        with _travelling():
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


SINGLE_PROCESS = DistContext()


@contextlib.contextmanager
def joined() -> Iterator[DistContext]:
    """The ranks that torchrun started, connected while the block runs; without it, this process alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield SINGLE_PROCESS
        return
    dist = DistContext(int(os.environ["RANK"]), count, int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _travelling() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            "another rank ended, see its message; torchrun … train --resume resumes from the last checkpoint"
        ) from error
