"""The typed tree behind the YAML file."""

from raymlops.config.loading import load_config, resolve_local
from raymlops.config.tree import METRICS, Config

__all__ = ["METRICS", "Config", "load_config", "resolve_local"]
