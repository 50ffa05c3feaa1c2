"""What a results folder holds, read back to be compared."""

from __future__ import annotations

import csv
import json


def table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def contents(folder):
    """All files below a folder, without what says when and how long."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in files:
        if name.endswith(".json"):
            content = json.loads(files[name])
            content.pop("seconds", content.pop("times", None))
            files[name] = json.dumps(content)
    return files
