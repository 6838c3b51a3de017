"""Lineage and comparisons of runs as lines of text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymlops.registry.ancestry import Lineage
    from raymlops.registry.comparison import Row
    from raymlops.registry.diffing import RunDiff
    from raymlops.registry.links import Link
    from raymlops.retraining.collection import Collected
    from raymlops.retraining.reproduction import Reproduction
    from raymlops.verification import Check

WIDTH = 13
"""Columns of a link's name."""
LONGEST = 60
"""Characters of a value in a comparison."""
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def lineage_lines(lineage: Lineage) -> Iterator[str]:
    """Each link with what was checked; ✓ verified, ✗ differs, · not checked."""
    for link in lineage.links:
        yield f"{link.name:<{WIDTH}}{_summary(link)}"
        good = [f"{c.what} ({c.detail})" if c.detail else c.what for c in link.checks if c.status == "verified"]
        if good:
            yield f"{'':<{WIDTH}}✓ {', '.join(good)}"
        for check in link.checks:
            if check.status != "verified":
                yield f"{'':<{WIDTH}}{check_line(check)}"
    checks = [check for link in lineage.links for check in link.checks]
    wrong, open_ = (sum(c.status == status for c in checks) for status in ("differs", "not checked"))
    yield f"{lineage.model}: {'intact' if lineage.intact else f'NOT intact, {wrong} differ(s)'}, {open_} not checked"


def check_line(check: Check) -> str:
    return f"{'✗' if check.status == 'differs' else '·'} {check.what}: {check.status}: {check.detail}"


def _summary(link: Link) -> str:
    facts = link.facts
    if not facts:
        return "unknown"
    return _SUMMARIES[link.name](facts)


def _version(facts: Mapping[str, Any]) -> str:
    aliases = f" ({', '.join(facts['aliases'])})" if facts["aliases"] else ""
    return f"{facts['uri']}{aliases}, package {_short(facts['package_sha256'])}"


def _run(facts: Mapping[str, Any]) -> str:
    known = (facts.get("verdict"), facts.get("started"), facts.get("base") and f"in {facts['base']}")
    return ", ".join([_short(facts["run_id"]), *(value for value in known if value)])


def _trial(facts: Mapping[str, Any]) -> str:
    values = [f"{name}={_plain(value)}" for name, value in facts["values"].items()]
    metric = f"{facts['metric']} {_plain(facts['value'])} at epoch {facts['epoch']}"
    rest = ["refitted"] if facts["refit"] else []
    if facts["start"]:
        rest.append(f"from the weights of package {_short(facts['start'])}")
    return ", ".join([facts["trial"], *values, metric, *rest])


def _checkpoint(facts: Mapping[str, Any]) -> str:
    return f"{_short(facts['weights_sha256'])}, {facts['path']}"


def _snapshot(facts: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{count:,} {part}" for part, count in facts.get("rows", {}).items())
    return f"{_short(facts['hash'])}{', ' if rows else ''}{rows}{' rows' if rows else ''}"


def _source(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in facts.items())


def _code(facts: Mapping[str, Any]) -> str:
    if not facts["commit"]:
        return str(facts["state"])
    branch = f" on {facts['branch']}" if facts["branch"] else ""
    return f"commit {_short(facts['commit'])}{branch}, {facts['state']}"


def _environment(facts: Mapping[str, Any]) -> str:
    return f"Python {facts['python']}, {facts['hardware']}, {facts['packages']}"


def _parent(facts: Mapping[str, Any]) -> str:
    if facts["uri"] is None:
        return "none: the model had no champion then"
    run = f", run {_short(facts['run_id'])}" if facts.get("run_id") else ""
    return f"{facts['uri']}{run}"


_SUMMARIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "version": _version,
    "run": _run,
    "trial": _trial,
    "checkpoint": _checkpoint,
    "snapshot": _snapshot,
    "source": _source,
    "code": _code,
    "environment": _environment,
    "parent": _parent,
}


def diff_lines(found: RunDiff) -> Iterator[str]:
    """Section by section, both values of every row; a section without rows is one line."""
    yield f"left   {found.left}"
    yield f"right  {found.right}"
    for name, rows in found.sections.items():
        yield ""
        yield name if rows else f"{name}: the same"
        yield from row_lines(rows)
    yield from (f"note: {note}" for note in found.notes)


def reproduction_lines(done: Reproduction) -> Iterator[str]:
    """What differs from the record, and whether the same weights came out."""
    if done.differences:
        yield "differs from what was recorded:"
        yield from row_lines(done.differences)
    if done.machine:
        yield "another machine:"
        yield from row_lines(done.machine)
    what = f"run {done.run_id[:12]} of {done.name}"
    if done.weights_sha256 is None:
        yield f"{what}: NOT trained again, because something that it takes is missing or was changed"
    elif done.equal:
        yield f"{what}: weights {done.recorded[:12]} again, equal to the last bit"
    else:
        yield f"{what}: weights {done.weights_sha256[:12]}, {done.recorded[:12]} were recorded: NOT equal"


def collected_lines(found: Collected, dry_run: bool) -> Iterator[str]:
    """Each path with its size, then the sum and how much stays for which reason."""
    for item in found.removed:
        yield f"{size(item.bytes):>10}  {item.kind:<10}  {item.path}"
    for items, why in ((found.spared, "stays: came into use meanwhile"), (found.failed, "FAILED: is still there")):
        for item in items:
            yield f"{size(item.bytes):>10}  {item.kind:<10}  {item.path}  {why}"
    verb = "would be removed" if dry_run else "removed"
    yield f"{size(found.bytes)} in {len(found.removed)} place(s) {verb}"
    for reason, count in Counter(found.plan.kept.values()).most_common():
        yield f"  {count} kept: {reason}"


def size(count: float) -> str:
    """Bytes in their largest sensible unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def row_lines(rows: list[Row]) -> Iterator[str]:
    """Aligned, the key first, then both values with an arrow between those that differ."""
    cells = [(row.key, shown(row.left), shown(row.right), row.same) for row in rows]
    first = max((len(key) for key, _, _, _ in cells), default=0)
    second = max((len(left) for _, left, _, _ in cells), default=0)
    for key, left, right, same in cells:
        yield f"  {key:<{first}}  {left:<{second}}  {'=' if same else '→'} {right}"


def shown(value: Any) -> str:
    """One value in a few characters; a dash for what is not there."""
    if value is None:
        return "-"
    text = _plain(value)
    if HASH.fullmatch(text):
        return text[:12]
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _short(value: Any) -> str:
    return "unknown" if value is None else str(value)[:12]
