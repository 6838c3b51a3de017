"""`raymlops init`: a small project that runs as it stands."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from raymlops.errors import ConfigError, RaymlopsError

FILES = {
    "model.yaml": "model.yaml.tmpl",
    "project_data.py": "project_data.py.tmpl",
    "project_model.py": "project_model.py.tmpl",
    "test_project.py": "test_project.py.tmpl",
    "requirements.txt": "requirements.txt.tmpl",
    "README.md": "README.md.tmpl",
    ".gitignore": "gitignore.tmpl",
    ".github/workflows/train.yaml": "workflow.yaml.tmpl",
}


def create_project(directory: Path) -> list[Path]:
    """Write the files and return their paths. Raises ConfigError rather than touch a directory that is not empty.

    Raises RaymlopsError when the disk refuses.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"DIR: {directory} exists and is not an empty directory; nothing was written")
    source = resources.files("raymlops") / "scaffold_files"
    written = []
    for name, template in FILES.items():
        target = directory / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text((source / template).read_text(encoding="utf-8"), encoding="utf-8")
        except OSError as error:
            raise RaymlopsError(f"DIR: cannot write {target}: {error.strerror}") from error
        written.append(target)
    return written
