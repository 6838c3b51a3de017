"""Errors a user is meant to read. The command line prints their message without a traceback and exits with `exit_code`.

Exit codes: 0 done, 1 failed, 2 usage (configuration or arguments), 3 refused by a gate or a contract.
"""

from __future__ import annotations


class RaymlopsError(Exception):
    """The work could not be done; the message says what was found and what was expected."""

    exit_code = 1


class ConfigError(RaymlopsError):
    """The configuration is wrong: every problem is listed with its key path, the value found and what is allowed."""

    exit_code = 2

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ResourceError(RaymlopsError):
    """The cluster cannot give what the configuration asks for."""

    exit_code = 2


class DataError(RaymlopsError):
    """The data cannot be read, is empty, or has a shape that the configuration contradicts."""


class StoreError(RaymlopsError):
    """A read or write of durable data failed; names the path and the reason."""


class Refused(RaymlopsError):
    """A gate or a contract said no; nothing was promoted."""

    exit_code = 3


class IntegrityError(RaymlopsError):
    """Stored bytes are not the bytes that were written: a hash differs or a part is missing."""
