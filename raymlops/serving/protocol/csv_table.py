"""CSV with a header line, as pandas writes it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from raymlops.serving.protocol.columns import EXPECTED, refused
from raymlops.serving.protocol.errors import ProtocolError
from raymlops.serving.protocol.request import check_rows, unknown
from raymlops.serving.protocol.rows import columns_of_table
from raymlops.serving.protocol.schema import NUMBER, TENSOR, Column, Rules

MISSING = {"", "NA", "N/A", "n/a", "<NA>", "NULL", "null", "None", "NaN", "nan", "-NaN", "-nan"}
MISSING |= {"#N/A", "#N/A N/A", "#NA", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"}
"""Cells that pandas reads as missing."""
LINE_CHARS = 1 << 18
BOOLEANS = {"True": 1.0, "TRUE": 1.0, "true": 1.0, "False": 0.0, "FALSE": 0.0, "false": 0.0}


def columns_of_csv(body: bytes, rules: Rules) -> tuple[dict[str, Any], int]:
    """Columns and the number of rows. Cells become numbers where the model reads numbers, and stay text elsewhere.

    Raises ProtocolError 400 naming column and row, 413 for too many rows.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProtocolError(400, f"body: not UTF-8 text ({error.reason} at byte {error.start})") from None
    lines = csv.reader(_bounded(io.StringIO(text, newline="")), strict=True)
    records: list[list[Any]] = []
    try:
        names = next(lines, [])
        for name in names:
            if name not in rules.columns:
                raise unknown(name, rules)
        for cells in lines:
            if not cells:  # pandas skips blank lines as well
                continue
            row = len(records)
            check_rows(row + 1, rules, "body")
            if len(cells) != len(names):
                message = f"body, row {row}: found {len(cells)} values, expected {len(names)}"
                raise ProtocolError(400, message, "body")
            records.append([_cell(rules.columns[name], row, cell) for name, cell in zip(names, cells, strict=True)])
    except csv.Error as error:
        raise ProtocolError(400, f"body: not CSV (line {lines.line_num}: {error})") from None
    return columns_of_table(names, records, rules, "body"), len(records)


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    """The reader makes a list of all cells of a line before anything can count them."""
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_CHARS:
            found = f"found {len(line)} characters, expected at most {LINE_CHARS}"
            raise ProtocolError(413, f"body, line {number}: {found}", "body")
        yield line


def _cell(column: Column, row: int, cell: str) -> Any:
    if cell in MISSING:
        return None
    if TENSOR in column.kinds:
        raise ProtocolError(400, f"column {column.name!r}: an array, which CSV cannot hold; send JSON", column.name)
    if NUMBER not in column.kinds:
        return cell
    if cell in BOOLEANS:
        return BOOLEANS[cell]
    try:
        if "_" in cell:  # Python's float takes 1_000
            raise ValueError
        return float(cell)
    except ValueError:
        raise refused(column, row, cell, EXPECTED[NUMBER]) from None
