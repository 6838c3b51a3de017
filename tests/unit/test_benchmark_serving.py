"""The arithmetic behind the serving benchmark's claims, its requests, and its own load generator's reading of HTTP."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from benchmarks.serving_lib import figures, protocols
from benchmarks.serving_lib.delays import rollback_delays, step_delays
from benchmarks.serving_lib.environments import constraints, requirements
from benchmarks.serving_lib.generator import length, percentile, succeeded
from benchmarks.serving_lib.load import Load, lua, raw
from benchmarks.serving_lib.observer import Observer
from benchmarks.serving_lib.tables import tables, targets

ROW = {"carrier": "AA", "distance": 1089, "speed": 1.5}


def load(requests: int, p50: float = 1.0, errors: int = 0) -> Load:
    return Load(requests, 2.0, errors, p50, p50, p50, 0.2)


SAMPLES = {
    "ours": {1: [load(200), load(400), load(300)], 16: [load(600)]},
    "peer": {1: [load(100)], 16: [load(1200, errors=3)]},
    "slow": {1: [load(10)], 16: [load(10)]},
}


def test_medians_and_ratios_are_over_repeats() -> None:
    assert figures.median(SAMPLES, "ours", 1) == 150.0
    assert figures.ratio(SAMPLES, "ours", "peer", 1) == 3.0
    assert figures.ratio(SAMPLES, "ours", "peer", 16) == 0.5
    assert figures.costs([(500.0, 1000.0), (1100.0, 1000.0)]) == [0.5, pytest.approx(-0.1)]
    assert figures.spread(SAMPLES, "ours", 1) == pytest.approx(2 / 3)
    assert figures.errors(SAMPLES, "peer") == 3


def test_what_the_log_takes_is_seen_on_a_machine_that_slows_down() -> None:
    slowing = [[96.0 * speed, 100.0 * speed] for speed in (10.0, 9.0, 4.0, 5.0, 4.0)]
    measured = {"samples": {}, "asked": {}, "memory_mib": {}, "missing": {}, "versions": {}, "repeats": 1}
    found = {**measured, "generator": "wrk", "log_starts": [slowing, slowing[::-1], [[80.0, 100.0]]]}
    assert next(target.value for target in targets(found) if "logging" in target.claim) == pytest.approx(0.04)
    rows = [row[-2:] for row in tables(found)[-1].rows]
    assert rows == [["4.0 %", "–"], ["4.0 %", "–"], ["20.0 %", "–"], ["4.0 %", "4.0 to 4.0 %"]]


@given(st.integers(6, 300), st.integers(0, 2**32 - 1))
def test_the_interval_of_a_median_has_the_values_that_a_sign_test_does_not_reject(number: int, seed: int) -> None:
    values = list(np.random.default_rng(seed).normal(size=number))
    low, high = figures.median_interval(values)
    assert low <= figures.middle(values) <= high
    assert figures.median_interval([-value for value in values]) == (-high, -low)
    for bound, side in ((low, -1), (high, 1)):
        inside = sum(side * value > side * (bound - side * 1e-12) for value in values)
        outside = inside - sum(value == bound for value in values)
        assert binomtest(inside, number).pvalue > 0.05 >= binomtest(outside, number).pvalue


def test_few_values_have_no_interval() -> None:
    assert all(math.isnan(bound) for few in ([], [1.0], [1.0] * 5) for bound in figures.median_interval(few))


def test_the_hardest_comparison_counts() -> None:
    assert figures.least_ratio(SAMPLES, "ours", ["peer", "slow"], [1, 16]) == (0.5, "peer, c = 16")


def test_what_was_not_measured_is_no_number() -> None:
    assert math.isnan(figures.median(SAMPLES, "absent", 1))
    assert math.isnan(figures.ratio(SAMPLES, "ours", "absent", 1))
    assert math.isnan(figures.spread(SAMPLES, "absent", 1))
    assert figures.least_ratio(SAMPLES, "ours", ["absent", "slow"], [1])[1] == "slow, c = 1"
    assert math.isnan(figures.least_ratio(SAMPLES, "ours", ["absent"], [1])[0])
    assert math.isnan(figures.middle(figures.costs([])))
    assert figures.shown(math.nan) == "–"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_a_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    found = figures.quantile(values, share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)
    assert percentile(sorted(values), share) == found


def test_p99_of_a_hundred_is_the_99th() -> None:
    assert figures.quantile([float(n) for n in range(1, 101)], 0.99) == 99.0
    with pytest.raises(ValueError, match="no values"):
        figures.quantile([], 0.5)


def test_every_protocol_carries_the_row_and_finds_the_prediction() -> None:
    assert json.loads(protocols.plain("/predict").encode(ROW)) == ROW
    assert json.loads(protocols.rows("flights").encode(ROW)) == ROW
    assert protocols.rows("flights").decode({"rows": [{"prediction": 2.5}]}) == 2.5
    inputs = json.loads(protocols.open_inference("flights").encode(ROW))["inputs"]
    assert [(i["name"], i["datatype"], i["data"]) for i in inputs] == [
        ("carrier", "BYTES", ["AA"]),
        ("distance", "INT64", [1089]),
        ("speed", "FP64", [1.5]),
    ]
    answer = {"outputs": [{"name": "other", "data": [1]}, {"name": "prediction", "data": [2.5]}]}
    assert protocols.open_inference("flights").decode(answer) == 2.5
    split = json.loads(protocols.invocations().encode(ROW))["dataframe_split"]
    assert dict(zip(split["columns"], split["data"][0], strict=True)) == ROW


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_a_response_is_complete_at_its_last_byte_only(response: bytes) -> None:
    assert length(response) == len(response)
    assert all(length(response[:n]) is None for n in range(len(response)))


def test_only_2xx_counts_as_answered() -> None:
    assert succeeded(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert not succeeded(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


def test_a_request_is_whole() -> None:
    sent = raw("/predict", {"Content-Type": "application/json"}, b"{}", 8000)
    assert sent.startswith(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: 2\r\n")
    assert sent.endswith(b"\r\n\r\n{}")


def test_bodies_survive_the_quoting_for_wrk() -> None:
    script = lua("/x", {"Content-Type": "application/json"}, [b'{"a": "b\\"c"}'])
    assert json.dumps('{"a": "b\\"c"}') in script
    assert "string.format" in script and '"requests": %d' in script


def test_a_load_knows_its_rate() -> None:
    assert load(300).rate == 150.0


def test_what_a_peer_pins_itself_is_not_pinned_again() -> None:
    pinned = constraints("# comment\nNumPy==2.4.6\npandas==3.1.1 # why\ntorch==2.13.0\n")
    assert pinned == {"numpy": "2.4.6", "pandas": "3.1.1", "torch": "2.13.0"}
    everything = {**pinned, "pyarrow": "1", "pydantic": "2", "pyyaml": "3", "safetensors": "4"}
    wanted = requirements(["peer[extra]==1.0", "pandas<3"], everything)
    assert wanted[:2] == ["peer[extra]==1.0", "pandas<3"]
    assert "numpy==2.4.6" in wanted and not any(w.startswith("pandas==") for w in wanted)


def entry(kind: str, at: float, **payload: object) -> dict[str, object]:
    return {"kind": kind, "at": at, "payload": payload}


def test_a_rollback_lasts_until_the_candidates_last_answer_before_the_next_rollout() -> None:
    ledger = [
        *(entry("started", 0.0), entry("running", 1.0), entry("rollback", 5.0), entry("rolled_back", 5.1)),
        *(entry("started", 8.0), entry("running", 9.0), entry("rollback", 12.0)),
    ]
    delays = rollback_delays(ledger, [4.9, 5.03, 5.2, 2.0, 9.5, 11.9])
    assert delays == [pytest.approx(0.2), 0.0]


def test_a_step_has_arrived_when_every_replica_routed_by_it() -> None:
    ledger = [
        entry("step", 10.0, shares=[0.1]),
        entry("step", 11.0, shares=[0.1, 0.1]),
        entry("step", 12.0, shares=[0.3]),
    ]
    rows = [
        *((9.0, "a", 0.0), (10.01, "b", 0.1), (10.05, "b", 0.1), (10.03, "a", 0.1)),
        *((11.002, "a", 0.2), (11.004, "b", 1.0 - 0.8), (12.5, "a", 0.3)),
    ]
    found = step_delays(ledger, rows, replicas=2)
    assert found == [[pytest.approx(0.01), pytest.approx(0.03)], [pytest.approx(0.002), pytest.approx(0.004)]]


class Says(BaseHTTPRequestHandler):
    """Answers as the body says: by a variant, with another status, or not at all."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"])).decode()
        if asked == "hang up":
            self.close_connection = True
            return
        self.send_response(503 if asked == "503" else 200)
        self.send_header("x-raymlops-variant", asked)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Says) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made.server_address[1]
        made.shutdown()


def test_an_observer_tells_answers_candidates_and_failures_apart(server: int) -> None:
    bodies, enough = [b"champion", b"candidate-1", b"503", b"hang up"], threading.Event()

    class Counting(Observer):
        def _note(self, candidate: bool) -> None:
            super()._note(candidate)
            if self.answers >= 40:
                enough.set()

    with Counting(server, "/", bodies, rate=2000.0) as observer:
        assert enough.wait(30)
    lost = [failure for failure in observer.failed if failure.startswith("RemoteDisconnected")]
    refused = [failure for failure in observer.failed if failure == "status 503"]
    assert lost and refused and len(lost) + len(refused) == len(observer.failed)
    assert 0 < len(observer.candidates) < observer.answers - len(refused)
    assert 0 < observer.share() < 1
