"""What Serve's HTTP servers do before Serve sees a request: hand it to the endpoint where that is in this process, else
take away the headers with which a client would change how Serve treats it.

Named in RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which has to be set where Ray starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware import Middleware

from raymlops.serving.lane import lane_here

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

NOT_THE_CLIENTS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"x-session-id",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
    }
)
WITHOUT_WATCHING = (b"x-request-disconnect-disabled", b"?1")
"""Every request that goes to Serve gets it: Serve then reads no further than the endpoint asks, so that a body beyond
the limit is never held in memory, and starts no task to watch for a client that goes away."""


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            lane = lane_here()
            if lane is not None and lane.takes(scope):
                await lane(scope, receive, send)
                return
            kept = [pair for pair in scope["headers"] if pair[0] not in NOT_THE_CLIENTS]
            scope["headers"] = [*kept, WITHOUT_WATCHING]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Serve asks for."""
    return [Middleware(Gate)]
