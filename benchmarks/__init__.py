"""Measurements that back the project's claims. Each one prints its table: `python -m benchmarks.NAME [--quick]`."""
