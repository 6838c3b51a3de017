"""`serving:` the endpoint that answers with the champion, and how it treats candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from raymlops.config.base import Node

Secret = Annotated[str, StringConstraints(pattern=r"^(env|file):.+$")]
"""Where a secret is found: `env:NAME` or `file:PATH`. The secret itself never stands in a configuration."""


class Autoscaling(Node):
    """Replicas by load, instead of a fixed number."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=4, ge=1)
    target_ongoing_requests: float = Field(default=32.0, gt=0)
    """Requests in progress per replica that autoscaling aims at."""

    @model_validator(mode="after")
    def _ordered(self) -> Autoscaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas: found {self.max_replicas}, expected at least {self.min_replicas}")
        return self


class AssignmentKey(Node):
    """What keeps a user on one variant. The first that a request has is taken; none makes the request its own unit."""

    header: str = "x-raymlops-key"
    """Name of a header."""
    parameter: str = "key"
    """Name in the `parameters` object of a v2 request."""
    column: str | None = None
    """Column whose value in the first row is the key."""


class Limits(Node):
    """What a request may ask for. Beyond it the answer is 413 or 422, before any work is done."""

    body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    """Larger bodies are answered 413."""
    rows: int = Field(default=10_000, ge=1)
    depth: int = Field(default=8, ge=2, le=64)
    """Nesting of JSON."""
    ongoing: int = Field(default=256, ge=1)
    """Requests in progress per replica before others have to wait."""
    queued: int = Field(default=512, ge=1)
    """Requests that may wait per replica; further ones are answered 503 with Retry-After."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Seconds until a request that has no answer gets 504. No header of a client changes it."""


class Tokens(Node):
    """Bearer tokens by what they allow; absent means open."""

    inference: Secret | None = None
    """`env:NAME` or `file:PATH` that holds the token for predictions and metadata."""
    feedback: Secret | None = None
    """The same, for labels."""
    admin: Secret | None = None
    """The same, for orders to retrain. Absent means that there are none by HTTP."""


class CandidateServing(Node):
    """How requests reach candidates."""

    placement: Literal["isolated", "co_resident"] = "isolated"
    """`isolated`: a Serve application of its own, whose crash, leak or stall cannot touch the champion. `co_resident`:
    in the endpoint's replicas, without the hop; for small models that are trusted."""
    budget_ms: float = Field(default=250.0, gt=0)
    """Milliseconds after which the champion answers in a candidate's place."""
    max_in_flight: int = Field(default=64, ge=1)
    """Requests under way from one replica to one candidate; others wait, within the budget. Copies in shadow mode that
    find no room are left out."""
    breaker_failures: int = Field(default=5, ge=1)
    """Calls in a row that fail or are late until no more are sent for `breaker_seconds`."""
    breaker_seconds: float = Field(default=5.0, gt=0)
    replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=0.5, ge=0)
    gpus: float = Field(default=0.0, ge=0)


class PredictionLog(Node):
    """Every answer, for monitoring and retraining: partitioned parquet below `storage`."""

    enabled: bool = True
    sample: float = Field(default=1.0, gt=0, le=1)
    """Share of requests that are kept, by hash of the prediction id."""
    redact: list[str] = []
    """Input columns that are not kept."""
    queue_rows: int = Field(default=100_000, ge=1)
    """Rows waiting to be written, per replica; beyond it rows are dropped and counted."""
    flush_s: float = Field(default=0.5, gt=0, le=60)
    """Most seconds of answers that a killed process loses, about."""


class ServingConfig(Node):
    host: str = "127.0.0.1"
    """Address to listen on. Loopback unless said otherwise."""
    port: int = Field(default=8000, ge=1, le=65535)
    proxy: Literal["auto", "default", "haproxy"] = "auto"
    """`auto` takes HAProxy and Serve's throughput mode where this process starts Ray and HAProxy is installed."""
    replicas: int = Field(default=1, ge=1)
    autoscaling: Autoscaling | None = None
    cpus: float = Field(default=0.5, ge=0)
    """CPUs that a replica reserves."""
    gpus: float = Field(default=0.0, ge=0)
    threads: int = Field(default=1, ge=1)
    """Threads of torch per replica."""
    batch_rows: int = Field(default=256, ge=1)
    """Most rows that are scored together when requests arrive at the same time; 1 scores every request alone."""
    batch_wait_ms: float = Field(default=0.0, ge=0, le=1000)
    """Milliseconds to wait for company. At 0 only what is there already is scored together, which costs no latency."""
    key: AssignmentKey = AssignmentKey()
    """What keeps a user on one variant."""
    nan: Literal["refuse", "missing"] = "refuse"
    """What a NaN in a request is. `refuse`: a mistake, answered 400 with the column's name; `null` is how a value is
    missing. `missing`: the same as `null`, for clients of binary tensors, which cannot write one."""
    force_variant: bool = False
    """Whether the header `x-raymlops-variant` may pick the variant. Such requests count in no comparison."""
    limits: Limits = Limits()
    """What a request may ask for."""
    tokens: Tokens = Tokens()
    """Bearer tokens by what they allow."""
    candidate: CandidateServing = CandidateServing()
    """How requests reach candidates."""
    log: PredictionLog = PredictionLog()
    """The prediction log."""
    log_requests: bool = False
    """A line of JSON for every prediction in the process's log, not only where something went wrong."""
