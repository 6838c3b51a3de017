"""Parts of benchmarks/monitoring.py."""
