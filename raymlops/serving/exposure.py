"""Which ports the endpoint's processes listen on, and from where they can be reached: looked up, not assumed."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, order=True)
class Listener:
    port: int
    host: str
    what: str
    """Who listens."""

    @property
    def everywhere(self) -> bool:
        """Whether other hosts can reach it, as far as no firewall is in the way."""
        return not is_loopback(self.host)

    @property
    def shown(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether an address means this machine only; of names `localhost` alone does."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listeners(pids: Iterable[int]) -> list[Listener]:
    """TCP ports that these processes and what they started listen on, sorted."""
    found: set[Listener] = set()
    for pid in pids:
        try:
            parent = psutil.Process(pid)
            family = [parent, *parent.children(recursive=True)]
        except psutil.Error:
            continue
        for process in family:
            try:
                sockets, name = process.net_connections("tcp"), _name(process)
            except psutil.Error:  # it has just ended
                continue
            for one in sockets:
                if one.status == psutil.CONN_LISTEN:
                    found.add(Listener(one.laddr.port, _plain(one.laddr.ip, one.family), name))
    return sorted(found)


def _plain(host: str, family: int) -> str:
    """`::ffff:127.0.0.1` is an IPv4 address in disguise."""
    if family == socket.AF_INET6 and host.startswith("::ffff:"):
        return host.removeprefix("::ffff:")
    return host


def _name(process: psutil.Process) -> str:
    title = (process.cmdline() or [process.name()])[0]
    return title.rsplit("/", 1)[-1].split(" ")[0] or process.name()
