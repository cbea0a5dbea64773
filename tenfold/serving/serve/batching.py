"""Images of many requests → probabilities: found and decoded side by side, answered together in one.

While a batch is computed, the next one gathers by itself: no image waits for company.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from tenfold.errors import ImageError, TooManyPixelsError
from tenfold.machine import cores
from tenfold.serving.predictor import Outputs, Predictor
from tenfold.serving.serve.decoders import Decoders
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.refusal import RefusalError, busy
from tenfold.serving.serve.watch import Telemetry

MOST_IN_A_BATCH = 64
MOST_DECODERS = 4  # each may take a gigabyte

Result = TypeVar("Result")
Waiting = tuple[np.ndarray, "asyncio.Future[Outputs]"]


class Batcher:
    """The one way from requests to the classifier. Used from one event loop."""

    def __init__(self, classifier: Predictor, limits: Limits, watch: Telemetry):
        self.classifier = classifier
        self._limits = limits
        self._watch = watch
        self._count = count = min(cores(), MOST_DECODERS)
        about = classifier.about
        self.decoders = Decoders(count, about.size, about.resize, limits, about.bit_depth)
        watch.add_decoders(self.decoders.usage)
        self._decoding = ThreadPoolExecutor(count, "decode")
        self._parsing = ThreadPoolExecutor(count, "parse")
        self._worker = ThreadPoolExecutor(1, "predict")
        self._waiting: deque[Waiting] = deque()
        self._working: asyncio.Task[None] | None = None
        self._requests = 0

    def close(self) -> None:
        """End threads and processes. What is still at work was given up."""
        pools = (self._decoding, self._parsing, self._worker)
        for threads in pools:
            threads.shutdown(wait=False, cancel_futures=True)
        self.decoders.close()
        for threads in pools:
            threads.shutdown()

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return self._requests >= self._limits.waiting

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Take a place among the requests at work; the block has a limited time. Raises `RefusalError` (503)."""
        if self.full:
            raise busy("as many requests wait as can")
        self._requests += 1
        self._watch.waiting.set(self._requests)
        try:
            async with asyncio.timeout(self._limits.seconds):
                yield
        except TimeoutError as error:
            raise busy(f"not answered in {self._limits.seconds:g} seconds") from error
        finally:
            self._requests -= 1
            self._watch.waiting.set(self._requests)

    async def apart(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Let one of the threads do what would keep all others waiting."""
        return await asyncio.get_running_loop().run_in_executor(self._parsing, work, *arguments)

    async def decode(self, contents: Sequence[bytes]) -> np.ndarray:
        """Bytes of image files to uint8 N×S×S×3. Raises `RefusalError`: 413 for too many pixels, else 400.

        One request has no more images at the decoders than there are of these, so that those of others come between.
        """
        turns = asyncio.Semaphore(self._count)
        tasks = [asyncio.create_task(self._decode(content, turns)) for content in contents]
        try:
            return np.stack([await task for task in tasks])
        except ImageError as error:
            number = next(i for i, task in enumerate(tasks) if task.done() and task.exception() is error)
            where = f"image {number + 1} of {len(tasks)}" if len(tasks) > 1 else "the image"
            raise RefusalError(413 if isinstance(error, TooManyPixelsError) else 400, f"{where}: {error}") from error
        finally:
            for task in tasks:
                if not task.cancel() and not task.cancelled():
                    task.exception()  # seen: nobody else will ask

    async def _decode(self, content: bytes, turns: asyncio.Semaphore) -> np.ndarray:
        async with turns:
            return await asyncio.get_running_loop().run_in_executor(self._decoding, self.decoders.decode, content)

    async def predict(self, images: np.ndarray) -> Outputs:
        """What the model says of uint8 N×S×S×3."""
        answer: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        self._waiting.append((images, answer))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        """Answer whatever waits, batch by batch, until nothing does."""
        try:
            while batch := self._next_batch():
                try:
                    outputs = await asyncio.get_running_loop().run_in_executor(self._worker, self._infer, batch)
                    _hand_out(outputs, batch)
                except Exception as error:
                    for _, answer in batch:
                        if not answer.done():
                            answer.set_exception(error)
        finally:
            self._working = None  # whatever happened, the next request finds a worker

    def _next_batch(self) -> list[Waiting]:
        """What waits, in order, up to `MOST_IN_A_BATCH` images or one request; those that gave up are left out."""
        batch: list[Waiting] = []
        images = 0
        while self._waiting and (not batch or images + len(self._waiting[0][0]) <= MOST_IN_A_BATCH):
            waiting = self._waiting.popleft()
            if not waiting[1].done():
                batch.append(waiting)
                images += len(waiting[0])
        return batch

    def _infer(self, batch: Sequence[Waiting]) -> Outputs:
        images = np.concatenate([images for images, _ in batch])
        began = time.perf_counter()
        outputs = self.classifier.infer(images)
        self._watch.inference.observe(time.perf_counter() - began)
        self._watch.batch.observe(len(images))
        self._watch.images.inc(len(images))
        return outputs


def _hand_out(outputs: Outputs, batch: Sequence[Waiting]) -> None:
    at = 0
    for images, answer in batch:
        if not answer.done():
            own = slice(at, at + len(images))
            distance = None if outputs.distance is None else outputs.distance[own]
            answer.set_result(Outputs(outputs.probabilities[own], distance))
        at += len(images)
