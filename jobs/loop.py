"""Watch a model and retrain it from a cluster that is already running:

    ray job submit --no-wait --working-dir . -- python jobs/loop.py --config configs/flights.yaml

The driver joins the cluster that it was submitted to and never starts one of its own. It goes on until the job is
stopped, with a line of JSON for each round; `--once` ends after one. Exit codes are those of `raymlops loop`. A job
whose cluster or driver dies may be submitted again: it goes on where the ledger ends.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package travels in the working directory


def main() -> int:
    parser = argparse.ArgumentParser(description="Watch a model and retrain it on a running Ray cluster.")
    parser.add_argument("--config", required=True, type=Path, help="configuration file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, a.b.c=value")
    parser.add_argument("--once", action="store_true", help="one round")
    arguments = parser.parse_args()

    from raymlops.cluster import job_address
    from raymlops.config import load_config
    from raymlops.errors import RaymlopsError
    from raymlops.imports import add_user_directory
    from raymlops.retraining.runner import loop_command

    try:
        os.environ["RAY_ADDRESS"] = job_address()
        config = load_config(arguments.config, arguments.set)
        base = arguments.config.resolve().parent
        add_user_directory(base)
        return loop_command(config, base, arguments.once, as_json=True)
    except RaymlopsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
