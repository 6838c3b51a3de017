"""Puts this directory on the import path, so that unit and integration tests share the modules in it."""

import os

# Models in tests are tiny: more threads would only wait for each other. Read by torch and BLAS when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
