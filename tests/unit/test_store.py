"""Durable writes: whole or not at all, once when asked to be once, and with a reason when the disk says no."""

from __future__ import annotations

import errno
import os
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.store import Store, StoreError


@pytest.fixture(params=["path", "file URI"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = tmp_path / "root"
    root.mkdir()
    return Store(str(root) if request.param == "path" else f"file://{root}")


def test_what_is_written_is_read(store: Store) -> None:
    store.write("a/b/c.bin", b"\x00one")
    assert store.read("a/b/c.bin") == b"\x00one"
    store.write("a/b/c.bin", b"two")
    assert store.read("a/b/c.bin") == b"two"
    assert store.exists("a/b/c.bin")
    assert store.exists("a/b")
    assert store.list("a/b") == ["c.bin"]
    assert store.list("") == ["a"]


def test_what_is_not_there(store: Store) -> None:
    assert not store.exists("x")
    assert store.list("x") == []
    store.delete_file("x")
    store.delete_tree("x")
    with pytest.raises(StoreError, match=r"cannot read .*x"):
        store.read("x")


def test_delete(store: Store) -> None:
    store.write("a/one", b"1")
    store.write("a/b/two", b"2")
    store.delete_file("a/one")
    assert store.list("a") == ["b"]
    store.delete_tree("a")
    assert not store.exists("a")


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_usage_counts_every_file_below(tmp_path: Path, scheme: str) -> None:
    store = Store(f"{scheme}{tmp_path}")
    store.write("a/one", b"123")
    store.write("a/b/two", b"4567")
    for name, when in (("a/one", 1000), ("a/b/two", 2000)):
        os.utime(tmp_path / name, (when, when))
    assert store.usage("a/one") == (3, 1000.0)
    assert store.usage("a") == (7, 2000.0)
    assert store.usage("nothing") == (0, 0.0)


def test_create_keeps_the_first(store: Store) -> None:
    assert store.create("once", b"first")
    assert not store.create("once", b"second")
    assert store.read("once") == b"first"
    assert store.list("") == ["once"]


def test_only_one_of_many_threads_creates(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for round_ in range(20):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda i, r=round_: store.create(f"{r}", b"%d" % i * 10_000), range(8)))
        assert won.count(True) == 1
        assert store.read(f"{round_}") == b"%d" % won.index(True) * 10_000
    assert store.list("") == sorted(map(str, range(20)))


def test_readers_never_see_a_half(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    versions = [bytes([i]) * 200_000 for i in range(40)]
    store.write("f", versions[0])

    def write() -> None:
        for version in versions:
            store.write("f", version)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = 0
        while not writing.done() or not seen:
            data = store.read("f")
            assert len(data) == 200_000
            assert len(set(data)) == 1
            seen += 1
        writing.result()
    assert store.list("") == ["f"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    store = Store(str(tmp_path))
    store.write("kept", b"old")

    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: store.write("kept", b"new"), lambda: store.create("other", b"new")):
        with pytest.raises(StoreError) as failure:
            write()
        assert os.strerror(code) in str(failure.value)
        assert str(tmp_path) in str(failure.value)
    assert store.read("kept") == b"old"
    assert store.list("") == ["kept"]


def test_a_file_where_a_directory_should_be(store: Store) -> None:
    store.write("file", b"")
    with pytest.raises(StoreError, match=r"cannot write .*file/below"):
        store.write("file/below", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="Permission denied"):
            Store(str(tmp_path)).write("x", b"")
    finally:
        tmp_path.chmod(0o700)


def test_at_makes_local_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store.at("data").uri == str(tmp_path / "data")
    assert Store.at("~/data").uri == str(tmp_path / "home" / "data")
    assert Store.at("s3://bucket/x").uri == "s3://bucket/x"
    assert Store.at("s3://bucket/x/").location("a/b") == "s3://bucket/x/a/b"
    assert Store.at("data").location("a/b") == str(tmp_path / "data" / "a" / "b")


def test_a_store_travels_to_workers(store: Store) -> None:
    store.write("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"  # noqa: S301


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/absolute"])
def test_no_path_leads_out_of_the_store(store: Store, tmp_path: Path, path: str) -> None:
    for use in (
        lambda: store.write(path, b"x"),
        lambda: store.create(path, b"x"),
        lambda: store.read(path),
        lambda: store.exists(path),
        lambda: store.list(path),
        lambda: store.delete_file(path),
        lambda: store.delete_tree(path),
        lambda: store.location(path),
    ):
        with pytest.raises(StoreError, match="leads out of"):
            use()
    assert [p.name for p in tmp_path.iterdir()] == ["root"]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=50), max_size=5))
def test_a_store_is_a_mapping(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    store = Store(str(tmp_path_factory.mktemp("store")))
    for name, data in files.items():
        store.write(f"d/{name}", data)
    assert {name: store.read(f"d/{name}") for name in store.list("d")} == files


def test_a_remote_store_decides_who_creates() -> None:
    store = Store(f"memory://{os.urandom(4).hex()}")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.create("a/once", b"%d" % n, exclusive=True), range(8)))
    assert won.count(True) == 1
    assert store.read("a/once") == b"%d" % won.index(True)


def test_refuses_where_nobody_decides(tmp_path: Path) -> None:
    store = Store(f"local://{tmp_path}")
    with pytest.raises(StoreError, match="LocalFileSystem has no conditional write"):
        store.create("once", b"1", exclusive=True)
    assert store.create("once", b"1")
    assert not store.create("once", b"2")
    with pytest.raises(StoreError, match="conditional writes need"):
        Store("nowhere://bucket").create("once", b"1", exclusive=True)


class _Flaky:
    """A store whose answer to a write gets lost."""

    def __init__(self, arrived: bytes | None) -> None:
        self.arrived = arrived

    def makedirs(self, path: str, exist_ok: bool) -> None:
        pass

    def pipe_file(self, path: str, data: bytes, mode: str) -> None:
        raise TimeoutError("no answer")

    def cat_file(self, path: str) -> bytes:
        if self.arrived is None:
            raise FileNotFoundError(path)
        return self.arrived


@pytest.mark.parametrize(("arrived", "expected"), [(b"mine", True), (b"other", False), (None, None)])
def test_a_lost_answer_is_looked_up(
    arrived: bytes | None, expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymlops.conditional._filesystem", lambda uri, required: (_Flaky(arrived), "root"))
    store = Store("memory://flaky")
    if expected is None:
        with pytest.raises(StoreError, match="no answer"):
            store.create("entry", b"mine", exclusive=True)
    else:
        assert store.create("entry", b"mine", exclusive=True) is expected


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 20))
def test_pieces_of_any_size_are_written_one_after_the_other(pieces: list[bytes], cached: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("raymlops.store.CACHED", cached)
        store = Store(folder)
        store.write_pieces("a/file", pieces)
        assert store.read("a/file") == b"".join(pieces)
