"""A candidate in a Serve application of its own: whatever it does, the endpoint's replicas go on.

It has no `__call__`: behind HAProxy every replica of an ingress deployment opens an HTTP port, and nobody but the
endpoint may ask a candidate.
"""

from __future__ import annotations

import asyncio
from typing import Any

from raymlops.config.serving import ServingConfig
from raymlops.errors import DataError, IntegrityError
from raymlops.serving.batching import Columns, Scored
from raymlops.serving.document import ModelRef, candidate_app
from raymlops.serving.link import Listener, socket_directory
from raymlops.store import Store

Outcome = tuple[str, Any, float]
"""(`ok`, answer, seconds of the model), (`data`, what is wrong with the rows, 0) or (`error`, what failed, 0)."""


class Candidate:
    """One model. Loads it, checked, before it is ready."""

    def __init__(self, endpoint: str, model: dict[str, str], storage: str, serving: dict[str, Any]) -> None:
        import ray
        import torch

        from raymlops.serving.hosting import Batching, Host

        config = ServingConfig(**serving)
        torch.set_num_threads(config.threads)
        device = "cuda" if config.candidate.gpus > 0 and torch.cuda.is_available() else "cpu"
        batching = Batching(config.batch_rows, config.batch_wait_ms / 1000)
        host = Host(Store(storage), endpoint, device, batching)
        self._hosted = host.load(ModelRef(**model))
        self._store = host.store
        gcs = ray.get_runtime_context().gcs_address
        directory = socket_directory(gcs, candidate_app(endpoint, self._hosted.ref))
        self._listener = Listener(directory, self.predict, greeting=self._hosted.schema)
        self._opening = asyncio.get_running_loop().create_task(self._listener.open())

    async def __del__(self) -> None:
        self._listener.close()

    async def predict(self, parts: list[tuple[Columns, int]]) -> list[Outcome]:
        """The outcome of each part, in order. One part that fails does not fail the others."""
        submit = self._hosted.batcher.submit
        found = await asyncio.gather(*(submit(columns, rows) for columns, rows in parts), return_exceptions=True)
        return [_outcome(one) for one in found]

    async def probe(self) -> dict[str, Any]:
        """Answer the recorded rows once more, through the running replica, and say which columns the model reads.
        Raises IntegrityError when the answers differ."""
        from raymlops.serving.packages import check, recorded

        hosted = self._hosted
        expected = await asyncio.to_thread(recorded, self._store, hosted.ref)
        rows = len(next(iter(expected.columns.values()), []))
        answer = (await hosted.batcher.submit(expected.columns, rows)).answer
        differs = check(expected, {name: values.tolist() for name, values in answer.items()})
        if differs is not None:
            raise IntegrityError(f"models:/{hosted.ref.name}/{hosted.ref.version}: {differs}")
        return {"sha256": hosted.ref.sha256, "rows": rows, "schema": hosted.schema}


def _outcome(found: Scored | BaseException) -> Outcome:
    if isinstance(found, Scored):
        return "ok", found.answer, found.seconds
    if isinstance(found, DataError):
        return "data", str(found), 0.0
    return "error", f"{type(found).__name__}: {found}", 0.0
