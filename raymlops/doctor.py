"""`raymlops doctor`: will a job run on this machine, and if not, why not."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import uuid
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from raymlops import __version__
from raymlops.errors import RaymlopsError
from raymlops.store import Store

TESTED = {"ray": "2.60", "mlflow": "3.17", "torch": "2.13"}
"""Versions whose behaviour the code relies on, by their first two numbers."""
PORTS = {6379: "Ray head", 8265: "Ray dashboard and jobs", 8000: "endpoint", 5000: "MLflow server"}


@dataclass(frozen=True)
class Finding:
    name: str
    status: Literal["ok", "warning", "error"]
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(storage: str) -> list[Finding]:
    """All findings, in the order in which they should be read."""
    return [
        _python(),
        *_packages(),
        _processors(),
        _memory(),
        _shared_memory(),
        _accelerators(),
        *_store(storage),
        *_ports(),
    ]


def _python() -> Finding:
    version = platform.python_version()
    ok = sys.version_info[:2] == (3, 11)
    return Finding("python", "ok" if ok else "error", version if ok else f"{version} found, 3.11 expected")


def _packages() -> list[Finding]:
    findings = [Finding("raymlops", "ok", __version__)]
    for name, tested in TESTED.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            findings.append(Finding(name, "error", "not installed"))
            continue
        same = version.startswith(f"{tested}.")
        findings.append(
            Finding(name, "ok" if same else "warning", version if same else f"{version}, tested with {tested}")
        )
    return findings


def _processors() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cpus", "ok", f"{count} usable")


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    status: Literal["ok", "warning"] = "ok" if free >= 2 else "warning"
    return Finding("memory", status, f"{free:.1f} GiB available" + ("" if free >= 2 else "; Ray wants at least 2"))


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding("shared memory", "ok", "not separate on this system")
    free = shutil.disk_usage(path).free / 2**30
    if free >= 1:
        return Finding("shared memory", "ok", f"{free:.1f} GiB free in {path}")
    return Finding(
        "shared memory", "warning", f"{free:.2f} GiB free in {path}; the object store would fall back to disk"
    )


def _accelerators() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpus", "ok", "none; training runs on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("gpus", "ok", ", ".join(names))


def _store(storage: str) -> list[Finding]:
    wanted = store = Store.at(storage)
    if store.is_local:  # what does not exist yet is not created: the nearest directory that exists has to allow it
        store = Store(str(next(p for p in (Path(store.uri), *Path(store.uri).parents) if p.exists())))
    probe = f".doctor-{uuid.uuid4().hex[:8]}"
    try:
        store.write(probe, b"probe")
        same = store.read(probe) == b"probe"
        store.delete_file(probe)
    except (RaymlopsError, OSError, ImportError) as error:
        return [Finding("store", "error", f"{wanted.uri}: {error}")]
    state = "is readable and writable" if store == wanted else "does not exist yet and can be created"
    findings = [Finding("store", "ok" if same else "error", f"{wanted.uri} {state}")]
    if store.is_local:
        free = shutil.disk_usage(store.uri).free / 2**30
        status: Literal["ok", "warning"] = "ok" if free >= 5 else "warning"
        findings.append(Finding("disk", status, f"{free:.0f} GiB free" + ("" if free >= 5 else "; 5 are advisable")))
    return findings


def _ports() -> list[Finding]:
    findings = []
    for port, use in PORTS.items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.2)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        detail = f"in use on loopback ({use})" if taken else f"free ({use})"
        findings.append(Finding(f"port {port}", "warning" if taken else "ok", detail))
    return findings
