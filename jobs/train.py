"""Run the main job on a cluster that is already running:

    ray job submit --working-dir . -- python jobs/train.py --config configs/flights.yaml

The driver joins the cluster that it was submitted to and never starts one of its own. Its exit code is the job's:
0 done, 1 failed, 2 wrong configuration, 3 refused by the gate or the contract. The last line of output is the result
as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package travels in the working directory


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the main job on a running Ray cluster.")
    parser.add_argument("--config", required=True, type=Path, help="configuration file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, a.b.c=value")
    arguments = parser.parse_args()

    from raymlops.cluster import job_address
    from raymlops.config import load_config
    from raymlops.errors import RaymlopsError
    from raymlops.imports import add_user_directory
    from raymlops.retraining.command import run_command

    try:
        os.environ["RAY_ADDRESS"] = job_address()
        config = load_config(arguments.config, arguments.set)
        base = arguments.config.resolve().parent
        add_user_directory(base)
        return run_command(config, base, as_json=True)
    except RaymlopsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
