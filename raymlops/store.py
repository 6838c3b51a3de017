"""Everything durable goes through a `Store`: a local directory or any filesystem that pyarrow or fsspec reaches by URI.

Writes are atomic: a reader sees the old bytes, the new bytes or nothing, never a half.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from raymlops import conditional
from raymlops.errors import StoreError

CACHED = 4 << 20
"""Bytes that `write_pieces` leaves in the page cache."""

__all__ = ["Store", "StoreError", "filesystem_of"]


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The pyarrow filesystem and the path inside it for a local path or a URI that pyarrow or fsspec knows."""
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        return fs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except ValueError:  # a scheme that only fsspec knows; pyarrow's ArrowInvalid is a ValueError
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def _write_uncached(file: BinaryIO, pieces: Iterable[bytes | memoryview]) -> None:
    """Give back the cache's memory after every few megabytes, for the next ones: new memory for hundreds of megabytes
    costs a processor several times what copying them does, and other files would lose theirs to it."""
    waiting = 0
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), CACHED):
            waiting += file.write(view[start : start + CACHED])
            if waiting >= CACHED and hasattr(os, "posix_fadvise"):
                file.flush()
                os.fdatasync(file.fileno())  # only what is on the disk can be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                waiting = 0


@dataclass(frozen=True)
class Store:
    """Paths given to methods are relative to `uri` and use forward slashes; none leads out of it. Picklable."""

    uri: str

    def __post_init__(self) -> None:
        if self.uri.startswith("file://"):  # a local path in other words; only those get atomic writes
            object.__setattr__(self, "uri", unquote(urlsplit(self.uri).path))

    @classmethod
    def at(cls, storage: str) -> Store:
        """The store at a path (relative to the working directory) or URI."""
        return cls(storage if "://" in storage else str(Path(storage).expanduser().resolve()))

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        try:
            filesystem, root = filesystem_of(self.uri)
        except (OSError, ValueError, ImportError) as error:
            raise StoreError(f"cannot open {self.uri}: {error}") from error
        return filesystem, root.rstrip("/")

    def location(self, path: str) -> str:
        """Absolute path or URI, for libraries that open it themselves. Raises StoreError when it is not below `uri`."""
        self._check(path)
        return str(Path(self.uri) / path) if self.is_local else f"{self.uri.rstrip('/')}/{path}"

    def _check(self, path: str) -> None:
        if path.startswith("/") or ".." in path.split("/"):
            raise StoreError(f"{path!r} leads out of the store {self.uri}")

    def write(self, path: str, data: bytes, sync: bool = True) -> None:
        """Write or replace a file. Raises StoreError; a failed write leaves the old file, if any, untouched.

        `sync=False` does not wait for the disk: for files that a hash elsewhere vouches for, or that can be made again.
        """
        self._write(path, [data], sync, cached=True)

    def write_pieces(self, path: str, pieces: Iterable[bytes | memoryview], sync: bool = True) -> None:
        """As `write`, of content that comes in pieces, so that it is never in memory as a whole, and of a local disk's
        page cache takes little."""
        self._write(path, pieces, sync, cached=False)

    def _write(self, path: str, pieces: Iterable[bytes | memoryview], sync: bool, cached: bool) -> None:
        self._check(path)
        try:
            if not self.is_local:
                filesystem, root = self._remote
                try:
                    out = filesystem.open_output_stream(f"{root}/{path}")
                except FileNotFoundError:  # object stores have no directories, other filesystems do
                    filesystem.create_dir(f"{root}/{path}".rpartition("/")[0], recursive=True)
                    out = filesystem.open_output_stream(f"{root}/{path}")
                with out:  # object stores publish on close
                    for piece in pieces:
                        out.write(piece)
                return
            target = Path(self.uri) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
            try:
                with temporary.open("wb") as file:
                    if cached:
                        file.writelines(pieces)
                    else:
                        _write_uncached(file, pieces)
                    if sync:
                        file.flush()
                        os.fsync(file.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {self.location(path)}: {error.strerror or error}") from error

    def create(self, path: str, data: bytes, *, exclusive: bool = False) -> bool:
        """Write a file only if it does not exist; False when somebody else already wrote it.

        On a local path this is decided by the filesystem (a hard link fails if the name is taken), on an object store
        by a conditional write where fsspec has one. Where it has none, it is a look before a write, and two writers in
        the same instant may both succeed. That will do for files whose content is determined by their name; with
        `exclusive` it is refused with a StoreError.
        """
        self._check(path)
        if not self.is_local:
            decided = conditional.create(self.uri, path, data, required=exclusive)
            if decided is not None:
                return decided
            if self.exists(path):
                return False
            self.write(path, data)
            return True
        target = Path(self.uri) / path
        if target.exists():
            return False
        staged = f"{path}.{uuid.uuid4().hex[:8]}"
        self.write(staged, data)
        try:
            os.link(self.location(staged), target)
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(f"cannot create {target}: {error.strerror or error}") from error
        finally:
            Path(self.location(staged)).unlink(missing_ok=True)
        return True

    def read(self, path: str) -> bytes:
        """Raises StoreError when the file is missing or unreadable."""
        self._check(path)
        try:
            if self.is_local:
                return (Path(self.uri) / path).read_bytes()
            filesystem, root = self._remote
            with filesystem.open_input_stream(f"{root}/{path}") as file:
                return bytes(file.read())
        except OSError as error:
            raise StoreError(f"cannot read {self.location(path)}: {error.strerror or error}") from error

    def exists(self, path: str) -> bool:
        self._check(path)
        if self.is_local:
            return (Path(self.uri) / path).exists()
        from pyarrow import fs

        filesystem, root = self._remote
        return bool(filesystem.get_file_info(f"{root}/{path}").type != fs.FileType.NotFound)

    def list(self, path: str) -> list[str]:
        """Names directly below `path`, sorted; empty when it does not exist."""
        self._check(path)
        if self.is_local:
            directory = Path(self.uri) / path
            return sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []
        from pyarrow import fs

        filesystem, root = self._remote
        found = filesystem.get_file_info(fs.FileSelector(f"{root}/{path}", allow_not_found=True))
        return sorted(info.base_name for info in found)

    def usage(self, path: str) -> tuple[int, float]:
        """Bytes of the files at or below `path`, and when the newest was written (seconds since 1970); zeros if there
        are none."""
        from pyarrow import fs

        self._check(path)
        if self.is_local:
            found = [Path(self.uri) / path, *(Path(self.uri) / path).rglob("*")]
            files = []
            for file in found:
                with contextlib.suppress(FileNotFoundError):  # whoever writes there goes on meanwhile
                    status = file.lstat()
                    if not file.is_dir():
                        files.append((status.st_size, status.st_mtime))
        else:
            filesystem, root = self._remote
            infos = [filesystem.get_file_info(f"{root}/{path}")]
            if infos[0].type != fs.FileType.File:
                below = fs.FileSelector(f"{root}/{path}", recursive=True, allow_not_found=True)
                infos = filesystem.get_file_info(below)
            kept = [info for info in infos if info.type == fs.FileType.File]
            files = [(info.size or 0, info.mtime.timestamp() if info.mtime else 0.0) for info in kept]
        return sum(size for size, _ in files), max((modified for _, modified in files), default=0.0)

    def delete_file(self, path: str) -> None:
        """Remove a file; nothing happens when it does not exist."""
        self._check(path)
        with contextlib.suppress(FileNotFoundError):
            if self.is_local:
                (Path(self.uri) / path).unlink()
            else:
                filesystem, root = self._remote
                filesystem.delete_file(f"{root}/{path}")

    def delete_tree(self, path: str) -> None:
        """Remove a directory and what is below it; nothing happens when it does not exist."""
        self._check(path)
        if self.is_local:
            shutil.rmtree(Path(self.uri) / path, ignore_errors=True)
            return
        filesystem, root = self._remote
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_dir(f"{root}/{path}")
