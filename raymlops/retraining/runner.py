"""`raymlops loop`: rounds on the clock, with a line for each that says something new."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from raymlops.errors import IntegrityError, RaymlopsError

if TYPE_CHECKING:
    from raymlops.config.tree import Config
    from raymlops.retraining.loop import Round

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 5.0
"""Time between two rounds while a model is being delivered."""


def loop_command(config: Config, base: Path, once: bool, as_json: bool) -> int:
    """Rounds until Ctrl-C or SIGTERM, or one; returns the exit code, of the one `exit_code`."""
    join_local_endpoint(config)
    from raymlops.cluster import check_shared_storage, connected
    from raymlops.imports import ship_by_value
    from raymlops.retraining.effects import require_champion
    from raymlops.retraining.loop import Loop
    from raymlops.store import Store

    say = _printer(as_json)
    store = Store.at(config.storage)
    version = require_champion(config, store)
    loop = Loop(config, base, store)
    with connected(config.ray) as cluster, _until_told() as told:
        check_shared_storage(config, store, cluster.nodes)
        ship_by_value(base)
        if not once and not as_json:
            print(f"watching {config.name} version {version} every {config.retraining.every}; {cluster}", flush=True)
        while True:
            try:
                found = loop.round(datetime.now(UTC))
                say(found)
            except IntegrityError:
                raise
            except RaymlopsError as error:
                if once:
                    raise
                log.warning("this round could not be finished: %s", error)
                print(f"{_stamp()} trouble: {error}", file=sys.stderr, flush=True)
                found = None
            if once:
                return exit_code(found)
            moving = found is not None and found.retraining is not None and found.retraining.phase == "delivering"
            every = config.retraining.every.total_seconds()
            if told.wait(min(every, FOLLOW_SECONDS) if moving else every):
                return 0


def exit_code(found: Round | None) -> int:
    """Of a round: 3 if it blocked or refused a retraining, 1 if it gave one up after all attempts."""
    ended = found.retraining.phase if found is not None and found.retraining is not None else None
    return {"blocked": 3, "refused": 3, "failed": 1}.get(ended or "", 0)


def join_local_endpoint(config: Config) -> None:
    """Where the model's endpoint runs on this machine and no other cluster is named, its Ray is the one to join: from
    there its rollouts are ordered."""
    from raymlops.serving import local

    here = None if config.ray.address or os.environ.get("RAY_ADDRESS") else local.find(config.name)
    if here is not None:
        os.environ.update(here.environment())


@contextmanager
def _until_told() -> Iterator[threading.Event]:
    """Set by SIGTERM and Ctrl-C between rounds; a second one interrupts the round."""
    told = threading.Event()

    def tell(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _printer(as_json: bool) -> Callable[[Round], None]:
    last: list[Any] = [None]

    def say(found: Round) -> None:
        if as_json:
            print(json.dumps(found.to_dict(), default=str), flush=True)
            return
        current = found.retraining
        key = found.decision.key, None if current is None else (current.id, current.phase)
        if key != last[0]:
            last[0] = key
            print(f"{_stamp()} {found.decision.action}: {found.decision.reason}", flush=True)
            if current is not None and current.ended is not None:
                print(f"{_stamp()} {current.id} {current.phase}: {current.ended['reason']}", flush=True)

    return say


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
