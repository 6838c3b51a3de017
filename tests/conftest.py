"""Puts this directory on the import path, so that unit and integration tests share the modules in it."""
