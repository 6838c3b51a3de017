"""One process works on a job; a dead one's claim is taken over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raymlops.lock import Held, hold
from raymlops.owner import this_process
from raymlops.store import Store

ROOT = "runs/m/jobs/k"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def claimed(store: Store, number: int, **owner: Any) -> None:
    known = {**this_process(), **owner}
    store.write(f"{ROOT}/claims/{number:08d}.json", json.dumps(known).encode())


def test_a_second_process_is_told_who_holds_it_and_gets_it_afterwards(store: Store) -> None:
    code = (
        "import sys\nfrom raymlops.lock import hold\nfrom raymlops.store import Store\n"
        f"with hold(Store(sys.argv[1]), {ROOT!r}, 'm'):\n    print('mine', flush=True)\n    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, store.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with (
            pytest.raises(Held, match=f"m: process {other.pid} on {socket.gethostname()}, since 2") as caught,
            hold(store, ROOT, "m"),
        ):
            pass
        assert caught.value.exit_code == 1
        other.stdin.write("\n")
    with hold(store, ROOT, "m") as claim:
        claim.check()


def test_a_killed_process_is_taken_over_at_once(store: Store) -> None:
    claimed(store, 3, pid=os.getpid(), started=1.0)  # this number belongs to another process by now
    with hold(store, ROOT, "m") as claim:
        assert claim.number == 4


def test_a_killed_process_that_nobody_has_buried_is_dead(store: Store) -> None:
    code = (
        "import json, sys\nfrom raymlops.owner import this_process\n"
        "print(json.dumps(this_process()), flush=True)\nsys.stdin.readline()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        claimed(store, 1, **json.loads(other.stdout.readline()))
        with pytest.raises(Held), hold(store, ROOT, "m"):
            pass
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        with hold(store, ROOT, "m") as claim:
            assert claim.number == 2


def test_a_process_on_another_machine_is_waited_for_until_it_is_silent(store: Store) -> None:
    claimed(store, 1, host="elsewhere", wall=time.time() - 30)
    with pytest.raises(Held, match="on elsewhere"), hold(store, ROOT, "m"):
        pass
    claimed(store, 1, host="elsewhere", wall=time.time() - 3000)
    with hold(store, ROOT, "m"):
        pass


def test_who_was_taken_over_stops(store: Store) -> None:
    with hold(store, ROOT, "m") as claim:
        claimed(store, claim.number + 1, host="elsewhere")
        with pytest.raises(Held, match=r"elsewhere, since .* has taken this job over"):
            claim.check()
    with pytest.raises(Held, match="elsewhere"), hold(store, ROOT, "m"):
        pass  # the end of the one before did not give back what is not its own


def test_what_a_power_cut_leaves_of_a_claim_stops_nobody(store: Store) -> None:
    store.write(f"{ROOT}/claims/00000003.json", b"")
    store.write(f"{ROOT}/beat.json", b"{")
    with hold(store, ROOT, "m") as claim:
        assert claim.number == 4
    claimed(store, 5, host="elsewhere", wall=time.time() - 30)
    store.write(f"{ROOT}/beat.json", b"{")
    with pytest.raises(Held, match="on elsewhere"), hold(store, ROOT, "m"):
        pass


def test_old_claims_do_not_pile_up(store: Store) -> None:
    for _ in range(9):
        with hold(store, ROOT, "m"):
            pass
    assert len(store.list(f"{ROOT}/claims")) <= 5
