"""Creating a file on an object store only if nobody did: the one operation that leases and fences stand on.

pyarrow has no conditional write, so this goes through fsspec, whose filesystems for S3, Google Cloud and Azure take
`mode="create"` and leave the decision to the store.
"""

from __future__ import annotations

import inspect
from typing import Any

from raymlops.errors import StoreError


def create(uri: str, path: str, data: bytes, *, required: bool) -> bool | None:
    """True if `uri/path` was created with `data`, False if it was there, None if the store cannot decide that.

    With `required` the last is a StoreError that says what is missing. An answer that got lost on the way is looked
    up: a file that holds exactly `data` was created here.
    """
    filesystem, root = _filesystem(uri, required)
    if filesystem is None:
        return None
    target = f"{root.rstrip('/')}/{path}"
    try:
        filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)  # nothing on object stores
        filesystem.pipe_file(target, data, mode="create")
    except FileExistsError:
        return False
    except Exception as error:  # each store has its own words for "taken", and for an answer that did not arrive
        return _look_up(filesystem, target, data, error)
    return True


def _look_up(filesystem: Any, target: str, data: bytes, error: Exception) -> bool:
    try:
        found = filesystem.cat_file(target)
    except Exception:
        raise StoreError(f"cannot create {target}: {type(error).__name__}: {error}") from error
    return bool(found == data)


def _filesystem(uri: str, required: bool) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        if required:
            raise StoreError(f"{uri}: conditional writes need fsspec's filesystem for it: {error}") from error
        return None, ""
    if _decides(filesystem):
        return filesystem, root
    if required:
        kind = type(filesystem).__name__
        raise StoreError(
            f"{uri}: {kind} has no conditional write, without which two controllers could both believe to be in "
            "charge; use a local path, or a store whose fsspec filesystem takes pipe_file(mode='create')"
        )
    return None, ""


def _decides(filesystem: Any) -> bool:
    """Whether the filesystem has its own `mode="create"`. The inherited one looks first and then writes."""
    import fsspec
    from fsspec.asyn import AsyncFileSystem

    for name, inherited in (("_pipe_file", AsyncFileSystem), ("pipe_file", fsspec.AbstractFileSystem)):
        own = getattr(type(filesystem), name, None)
        if own is not None and own is not getattr(inherited, name, None):
            if name == "pipe_file" and isinstance(filesystem, AsyncFileSystem):
                continue  # the synchronous mirror of `_pipe_file`
            return "mode" in inspect.signature(own).parameters
    return False
