"""The cache folder: what is slow to make and the same at every start. Nothing in it is used unless it is whole.

A folder of files is written beside its place and then renamed, with the SHA-256 of each file. So no process sees half
of it, and what was damaged later is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SUMS = "sha256.json"


def cache_folder() -> Path:
    """Where converted networks are kept: ``$COVSEV_CACHE``, or ``covsev`` in the user's cache folder."""
    if "COVSEV_CACHE" in os.environ:
        return Path(os.environ["COVSEV_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "covsev"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def kept_folder(name: str) -> Path | None:
    """The folder ``name`` of the cache if every file in it is as it was written, else ``None``."""
    folder = cache_folder() / name
    try:
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        whole = all(sha256_of(folder / file) == found for file, found in sums.items())
    except (OSError, ValueError, AttributeError):
        return None
    return folder if whole else None


def keep_folder(name: str, write: Callable[[Path], None]) -> Path:
    """Fill the folder ``name`` of the cache, in place of one that is not whole.

    Args:
        name: of the folder.
        write: writes the files into a folder that it is given.

    Raises:
        OSError: if the cache cannot be written.
    """
    target = cache_folder() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename is one step only within a file system.
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    temporary.chmod(0o755)  # the cache may be shared
    try:
        write(temporary)
        sums = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
        (temporary / _SUMS).write_text(json.dumps(sums), encoding="utf-8")
        if kept_folder(name) is None:
            shutil.rmtree(target, ignore_errors=True)  # what is there is not whole
        try:
            temporary.rename(target)
        except OSError:
            if kept_folder(name) is None:  # else another process was faster, and its folder is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def read_entry(name: str) -> dict[str, Any] | None:
    """What :func:`write_entry` kept under ``name``; ``None`` where there is no such file.

    Raises:
        ValueError: if the file is damaged or holds something else.
    """
    path = cache_folder() / name
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__})") from error
    try:
        entry = json.loads(text)
        content, sum_of_it = entry["content"], entry["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged") from error
    if sum_of_it != _sum(content):
        raise ValueError(f"{path} is damaged")
    return content  # type: ignore[no-any-return]


def write_entry(name: str, content: Mapping[str, Any]) -> None:
    """Keep ``content`` under ``name``, in one step.

    Raises:
        OSError: if the cache cannot be written.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".making-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump({"sha256": _sum(content), "content": content}, stream, indent=1)
        Path(temporary).chmod(0o644)  # the cache may be shared
        Path(temporary).replace(folder / name)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
