"""raymlops keeps one model alive: data, search, gate, registry and retraining on Ray, from one YAML file."""

__version__ = "0.1.0"
