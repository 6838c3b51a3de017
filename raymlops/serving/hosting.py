"""Models in this process: loaded beside the traffic, checked before they answer, and really freed when dropped."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raymlops.errors import IntegrityError
from raymlops.serving.batching import MicroBatcher
from raymlops.serving.document import ModelRef
from raymlops.serving.packages import check_package, load, recorded
from raymlops.serving.protocol import ModelSchema
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.registry.package import ModelPackage

logger = logging.getLogger("raymlops.serving")
_TIMED_ROUNDS = 3


@dataclass(frozen=True)
class Batching:
    """How requests are scored together."""

    rows: int = 256
    wait_s: float = 0.0
    observe: Callable[[int], None] | None = None
    alone: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Hosted:
    """A model that answered the recorded rows as the registered one does."""

    ref: ModelRef
    package: ModelPackage
    schema: ModelSchema
    batcher: MicroBatcher


class Host:
    """The models that this process holds. Only `load` blocks; everything else belongs to the event loop."""

    def __init__(self, store: Store, endpoint: str, device: str = "cpu", batching: Batching = Batching()) -> None:
        self.store, self.endpoint, self.device, self._batching = store, endpoint, device, batching
        self._models: dict[str, Hosted] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self.failed: dict[str, str] = {}
        """Hash → why a model that was asked for cannot be held."""

    @property
    def loaded(self) -> list[str]:
        return sorted(self._models)

    def get(self, ref: ModelRef) -> Hosted | None:
        return self._models.get(ref.sha256)

    def load(self, ref: ModelRef) -> Hosted:
        """Load and check a model now. Raises StoreError or IntegrityError."""
        self._models[ref.sha256] = hosted = self._open(ref)
        self.failed.pop(ref.sha256, None)
        return hosted

    async def hold(self, wanted: Iterable[ModelRef]) -> None:
        """Load what is missing, in a thread. What cannot be loaded is noted in `failed`."""
        for ref in wanted:
            if ref.sha256 in self._models:
                continue
            task = self._loading.get(ref.sha256)
            if task is None:
                task = self._loading[ref.sha256] = asyncio.get_running_loop().create_task(self._load(ref))
            await asyncio.shield(task)  # who stops waiting does not stop the loading, which others may wait for

    async def _load(self, ref: ModelRef) -> None:
        try:
            hosted = await asyncio.to_thread(self._open, ref)
        except Exception as error:  # whatever it is: the replica lives, and says why it does not have the model
            self.failed[ref.sha256] = f"{type(error).__name__}: {error}"
            logger.warning("cannot load version %s of %s: %s", ref.version, ref.name, error)
        else:
            self._models[ref.sha256] = hosted
            self.failed.pop(ref.sha256, None)
        finally:
            del self._loading[ref.sha256]

    async def keep_only(self, wanted: Iterable[ModelRef]) -> None:
        """Drop every other model and give its memory back."""
        names = {ref.sha256 for ref in wanted}
        self.failed = {name: reason for name, reason in self.failed.items() if name in names}
        modules = [weakref.ref(self._models.pop(name).package.module) for name in self.loaded if name not in names]
        if modules:
            await asyncio.to_thread(_reclaim, modules)

    def _open(self, ref: ModelRef) -> Hosted:
        package = load(self.store, ref, self.device)
        differs = check_package(self.store, ref, package)
        if differs is not None:
            raise IntegrityError(f"models:/{ref.name}/{ref.version} as loaded is not the registered one: {differs}")
        batcher = MicroBatcher(
            package.predict_columns,
            max_rows=self._batching.rows,
            wait_s=self._batching.wait_s,
            expected_s=self._seconds(ref, package),
            observe=self._batching.observe,
            alone=self._batching.alone,
        )
        schema = ModelSchema.of(package, self.endpoint, [ref.version])
        return Hosted(ref, package, schema, batcher)

    def _seconds(self, ref: ModelRef, package: ModelPackage) -> float:
        """What one row takes, warm."""
        columns = {name: values[:1] for name, values in recorded(self.store, ref).columns.items()}
        best = float("inf")
        for _ in range(_TIMED_ROUNDS):
            started = time.perf_counter()
            package.predict_columns(columns, 1)
            best = min(best, time.perf_counter() - started)
        return best


def _reclaim(modules: Sequence[weakref.ref[Any]]) -> None:
    """Objects that refer to each other are only freed by a collection, and not even then while they are frozen: Serve
    freezes what exists when a replica has started. The collection stalls this process, so it is done only if needed."""
    if any(module() is not None for module in modules):
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed is not yet given back
    except (OSError, AttributeError):  # not glibc
        return
