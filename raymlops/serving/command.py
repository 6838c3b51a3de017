"""`raymlops serve`: in the foreground with a live view, or detached in a process of its own; and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil

from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.serving.local import LocalEndpoint, find, running, runtime_directory

if TYPE_CHECKING:
    from rich.console import Console

START_SECONDS = 180.0
STOP_SECONDS = 60.0
REFRESH_SECONDS = 1.0


def serve_command(config: Config, arguments: list[str], detach: bool, emit: Path | None, as_json: bool) -> None:
    """`arguments` are those of this command line, for the process that goes on when this one is detached."""
    if emit is not None:
        from raymlops.serving.declarative import write_serve_config

        write_serve_config(config, emit)
        print(json.dumps({"emitted": str(emit)}) if as_json else emit)
    elif detach:
        found = _start_detached(config, arguments)
        print(json.dumps(found) if as_json else "\n".join(found["introduction"]))
    else:
        _foreground(config, as_json)


def _foreground(config: Config, as_json: bool) -> None:
    from rich.console import Console

    from raymlops.serving.launch import serving
    from raymlops.serving.view import facts, introduction

    console = Console(stderr=True, highlight=False)
    try:
        _interrupt_on_signals()
        with serving(config, lambda what: console.print(f"… {what}", style="dim")) as here:
            _interrupt_on_signals()  # Ray has put its own in their place
            lines = introduction(here)
            if as_json:
                print(json.dumps({**facts(here), "introduction": lines}), flush=True)
            else:
                console.print("\n".join(lines), markup=False, soft_wrap=True)
            if as_json or not console.is_terminal:
                threading.Event().wait()
            console.print("\nCtrl-C ends it.", style="dim")
            _watch(config.name, console)
    except KeyboardInterrupt:
        console.print(f"{config.name}: ended", style="dim")


def _watch(name: str, console: Console) -> None:
    from rich.live import Live

    from raymlops.serving.view import Traffic, picture

    traffic, ask = Traffic(), _asker(name)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(picture(ask(), traffic), refresh=True)
            time.sleep(REFRESH_SECONDS)


def _interrupt_on_signals() -> None:
    """SIGTERM and SIGHUP end the endpoint like Ctrl-C, so that it is taken down in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # a hang-up that is ignored (nohup) stays ignored
            signal.signal(number, interrupt)


def _asker(name: str) -> Callable[[], dict[str, Any] | None]:
    import ray

    from raymlops.rollout.controller import find_controller

    def ask() -> dict[str, Any] | None:
        try:
            controller = find_controller(name)
            return None if controller is None else dict(ray.get(controller.status.remote(), timeout=2))
        except ray.exceptions.RayError:
            return None

    return ask


def _start_detached(config: Config, arguments: list[str]) -> dict[str, Any]:
    """The same command in a session of its own, which lives on. Returns what it printed when it was ready."""
    log = runtime_directory() / f"{config.name}.log"
    command = [sys.executable, "-m", "raymlops", "serve", *arguments, "--json"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    assert process.stdout is not None
    line = _first_line(process)
    if line is None:
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        raise RaymlopsError("\n".join(["the endpoint did not start:", *tail, f"(all of it: {log})"]))
    found: dict[str, Any] = json.loads(line)
    if "error" in found:
        raise RaymlopsError(str(found["error"]))
    found["log"] = str(log)
    found["introduction"] += [f"  runs on   as process {found['pid']}; `raymlops serve {config.name} --stop` ends it"]
    return found


def _first_line(process: subprocess.Popen[bytes]) -> bytes | None:
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
    reader.start()
    reader.join(START_SECONDS)
    if lines and lines[0].strip():
        return lines[0]
    process.terminate()
    return None


def stop_command(name: str, as_json: bool) -> None:
    """End a local endpoint. Raises RaymlopsError when none has this name, or it does not end."""
    endpoint = find(name)
    if endpoint is None:
        known = ", ".join(one.name for one in running()) or "none"
        raise RaymlopsError(f"endpoint {name!r} does not run on this machine; running: {known}")
    _end(endpoint)
    print(json.dumps({"stopped": name, "pid": endpoint.pid}) if as_json else f"{name}: stopped")


def _end(endpoint: LocalEndpoint) -> None:
    os.kill(endpoint.pid, signal.SIGTERM)
    until = time.monotonic() + STOP_SECONDS
    while endpoint.alive:
        if time.monotonic() > until:
            raise RaymlopsError(f"{endpoint.name}: process {endpoint.pid} does not end within {STOP_SECONDS:.0f} s")
        try:
            if psutil.Process(endpoint.pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.Error:
            return
        time.sleep(0.1)
