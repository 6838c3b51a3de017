"""The endpoint's HTTP side: path → operation → checked request → answer → response.

A plain callable instead of a web framework: routing through FastAPI would take as long as the model. Serve's own
request timeout can be switched off by a header of the client, so the deadline is kept here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from raymlops.config.serving import ServingConfig
from raymlops.errors import DataError, RaymlopsError
from raymlops.rollout.evidence import unit_hash
from raymlops.serving.answering import ModelFailed
from raymlops.serving.labels import Label as StoredLabel
from raymlops.serving.labels import LabelError, LabelsUnavailable
from raymlops.serving.lane import Lane, open_lane
from raymlops.serving.protocol import (
    ROOTS,
    Authenticator,
    Encoded,
    Label,
    ProtocolError,
    Route,
    Stamp,
    check_length,
    check_model,
    describe,
    encode_json,
    health,
    match,
    parse,
    parse_feedback,
    parse_order,
    plain_headers,
)
from raymlops.serving.replica import Replica
from raymlops.serving.routing import Routing
from raymlops.store import StoreError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope

logger = logging.getLogger("raymlops.serving")
VARIANT_HEADER = "x-raymlops-variant"
RETRY_AFTER = {"retry-after": "1"}
_HEALTH = frozenset({"live", "ready", "model_ready", "ping"})
_SCORING = frozenset({"infer", "rows", "invocations"})
LARGE_BODY = 128 * 1024
"""Bytes from which on a body is read in a thread: 8 MiB take a quarter of a second. JSON is decoded at one go, and
nothing else runs in that part of the time; so there is one such thread, and large bodies wait for each other."""
T = TypeVar("T")


class Reply(Response):
    """A finished response, without Starlette's handling of headers that are always the same."""

    def __init__(self, status: int, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
        self.raw_headers.append((b"content-length", str(len(body)).encode()))


class Ingress:
    """The deployment `ingress`: one replica of the endpoint."""

    def __init__(self, endpoint: dict[str, Any], champion: dict[str, str]) -> None:
        """Returns when the replica has its document and its models; raises when it cannot get them."""
        self._replica = Replica(endpoint, champion)
        config: ServingConfig = self._replica.config
        self._name, self._config = self._replica.name, config
        self._tokens = Authenticator.of(config.tokens)
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="raymlops-parser")
        self._replica.start()
        if config.autoscaling is None:
            limits = config.limits
            open_lane(Lane(self._answer, _busy, limits.ongoing + limits.queued, ROOTS))

    async def __call__(self, request: Request) -> Response:
        """What Serve calls, with what did not come by the lane."""
        return await self._answer(request.scope, request.receive)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        family = "v2"
        try:
            path = scope["path"].removeprefix(scope.get("root_path", ""))  # where the application has a prefix
            route = match(scope["method"], path)
            family = route.family
            headers = plain_headers(scope["headers"])
            self._tokens.check(route.access, headers)
            async with asyncio.timeout(self._config.limits.timeout_s):
                return await self._operate(route, headers, receive)
        except ProtocolError as error:
            return _refusal(error, family)
        except DataError as error:
            return _refusal(ProtocolError(422, str(error)), family)
        except TimeoutError:
            seconds = self._config.limits.timeout_s
            return _refusal(ProtocolError(504, f"no answer within {seconds:g} s"), family)
        except ModelFailed as error:
            return _refusal(ProtocolError(500, str(error)), family)
        except Exception:
            logger.exception("a defect of the endpoint")
            return _refusal(ProtocolError(500, "the endpoint failed; its log says why"), family)

    async def _operate(self, route: Route, headers: dict[str, str], receive: Receive) -> Reply:
        routing = self._replica.routing
        check_model(route, routing.rules.schema)
        if route.operation in _SCORING:
            check_length(headers, self._config.limits)
            body = await self._body(receive)
            return await self._score(route, headers, body)
        if route.operation == "feedback":
            check_length(headers, self._config.limits)
            return await self._feedback(headers, await self._body(receive))
        if route.operation == "retraining":
            check_length(headers, self._config.limits)
            return await self._order(headers, await self._body(receive))
        if route.operation in _HEALTH:
            status, encoded = health(route, True)
            return _reply(encoded, status)
        return _reply(describe(route, routing.rules, self._config.tokens))

    async def _score(self, route: Route, headers: dict[str, str], body: bytes) -> Reply:
        routing = self._replica.routing  # the one in force now, not when the body began to arrive
        if len(body) < LARGE_BODY:
            parsed = parse(route, body, headers, routing.rules)
        else:
            parsed = await self._aside(parse, route, body, headers, routing.rules)
        forced = self._forced(route, headers, routing)
        answered = await self._replica.answerer.answer(routing, parsed, forced)
        stamp = Stamp(self._name, answered.version, answered.variant, answered.prediction_id)
        body, extra = parsed.encode(answered.answer, stamp)
        return Reply(
            HTTPStatus.OK,
            body,
            (
                *extra.items(),
                ("x-raymlops-version", answered.version),
                (VARIANT_HEADER, answered.variant),
                ("x-raymlops-prediction-id", answered.prediction_id),
            ),
        )

    def _forced(self, route: Route, headers: dict[str, str], routing: Routing) -> int | None:
        """The arm that the client chose, by the header or by a version in the path; None leaves it to the split."""
        variant = headers.get(VARIANT_HEADER)
        if variant is not None:
            if not self._config.force_variant:
                raise ProtocolError(403, f"{VARIANT_HEADER}: choosing the variant is not allowed here", VARIANT_HEADER)
            try:
                return routing.router.named(variant)
            except RaymlopsError as error:
                raise ProtocolError(404, f"{VARIANT_HEADER}: {error}", VARIANT_HEADER) from None
        if route.version is None:
            return None
        champion = routing.document.champion.version
        if route.version != champion and not self._config.force_variant:
            raise ProtocolError(
                403, f"version {route.version}: choosing a candidate is not allowed here; version {champion} answers"
            )
        return next((n for n, arm in enumerate(routing.arms) if arm.model.version == route.version), None)

    async def _feedback(self, headers: dict[str, str], body: bytes) -> Reply:
        routing, now = self._replica.routing, time.time()
        labels = await self._aside(parse_feedback, body, headers, routing.rules)
        try:
            stored = [self._stored(label) for label in labels]
            counts = await self._replica.labels.add(stored)
        except LabelsUnavailable as error:
            raise ProtocolError(503, str(error), headers=RETRY_AFTER) from None
        except LabelError as error:
            raise ProtocolError(422, str(error), "labels") from None
        for label in labels:
            key_hash = None if label.key is None else unit_hash(routing.document.salt, label.key)
            self._replica.accounts.labelled(label.prediction_id, label.label, now, key_hash)
        return _reply(encode_json(counts._asdict()))

    async def _order(self, headers: dict[str, str], body: bytes) -> Reply:
        """A retraining is dear, and what it makes goes live: not without a token, even where all else is open."""
        if not self._tokens.protects("admin"):
            message = "authorization: orders by HTTP need a token for administration; set serving.tokens.admin"
            raise ProtocolError(403, message, "authorization")
        wanted = await self._aside(parse_order, body, headers, self._replica.routing.rules)
        try:
            order = await self._aside(self._replica.order, wanted)
        except StoreError as error:
            raise ProtocolError(503, f"the order could not be stored: {error}", headers=RETRY_AFTER) from None
        return _reply(encode_json({"order": order, "state": "waiting"}), HTTPStatus.ACCEPTED)

    async def _aside(self, work: Callable[..., T], *arguments: Any) -> T:
        """In the parser's thread, so that other requests are answered meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._parser, work, *arguments)

    def _stored(self, label: Label) -> StoredLabel:
        """The key's hash as the prediction log has it: the same in every rollout."""
        key_hash = None if label.key is None else unit_hash(self._name, label.key)
        return StoredLabel(label.label, label.prediction_id, key_hash, label.at)

    async def _body(self, receive: Receive) -> bytes:
        """Raises ProtocolError 413 as soon as more than the limit has come, whatever the headers said."""
        limit, parts, size = self._config.limits.body_bytes, [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ProtocolError(400, "body: the client went away")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise ProtocolError(413, f"body: found more than {limit} bytes, which is the limit", "body")
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def __del__(self) -> None:
        open_lane(None)
        await self._replica.stop()


def _reply(encoded: Encoded, status: int = HTTPStatus.OK) -> Reply:
    return Reply(status, encoded.body, encoded.headers.items())


def _busy(scope: Scope) -> Reply:
    return _refusal(ProtocolError(503, "too many requests in progress", headers=RETRY_AFTER), "v2")


def _refusal(error: ProtocolError, family: str) -> Reply:
    return _reply(error.encode(family), error.status)
