"""Bearer tokens: who may ask, who may send labels, who may administer."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from raymlops.config.serving import Tokens
from raymlops.errors import ConfigError
from raymlops.serving.protocol.errors import ProtocolError

ACCESSES = ("inference", "feedback", "admin")


class Authenticator:
    """Holds hashes only, so that neither a log nor a traceback can show a token."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    @classmethod
    def of(cls, tokens: Tokens) -> Authenticator:
        """Reads the tokens once. Raises ConfigError naming the field whose source is missing or empty."""
        sources = {access: getattr(tokens, access) for access in ACCESSES}
        return cls({access: _digest(_read(source, access)) for access, source in sources.items() if source is not None})

    def protects(self, access: str | None) -> bool:
        """Whether the access needs a token."""
        return access in self._digests

    def check(self, access: str | None, headers: Mapping[str, str]) -> None:
        """Raises ProtocolError 401 unless the request carries the token of this access, or none is needed.

        The time it takes says nothing about the token: hashes of equal length are compared, all of their bytes.
        """
        expected = self._digests.get(access) if access is not None else None
        if expected is None:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _unauthorised(access, "missing", "Bearer")
        if not hmac.compare_digest(_digest(token), expected):
            raise _unauthorised(access, "not the right one", 'Bearer error="invalid_token"')

    def __repr__(self) -> str:
        return f"Authenticator({', '.join(self._digests)})"


def _unauthorised(access: str | None, why: str, challenge: str) -> ProtocolError:
    message = f"authorization: the bearer token for {access} is {why}"
    return ProtocolError(401, message, "authorization", {"www-authenticate": challenge})


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _read(source: str, access: str) -> str:
    kind, _, place = source.partition(":")
    field = f"serving.tokens.{access}"
    if kind == "env":
        token = os.environ.get(place)
        if token is None:
            raise ConfigError(f"{field}: found {source}, but this environment variable is not set")
    else:
        try:
            token = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{field}: found {source}, which cannot be read ({type(error).__name__})") from None
    token = token.strip()
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise ConfigError(f"{field}: {source} holds no token, expected ASCII text without spaces")
    return token
