"""Kill runs over one folder at random moments, 24 times, then let one finish.

    python tests/killed_runs.py SCANS OUT BUNDLE

Each run is a fork of this process, which has loaded everything, and assesses without workers, so that kills fall into
the work and not into the imports. Fails if a half file has a proper name, or if in the end anything but times differs
from an undisturbed run. Prints how many kills hit a run, and how many scans were finished then.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import nibabel as nib
from in_process import InProcess
from result_files import contents

from covsev.batch import assess_directory, directory
from covsev.lesions.model import load_model

KILLS = 24


def main(scans: Path, out: Path, bundle: Path) -> None:
    """Kill and rerun, starting with an empty folder whenever a run was faster than its kill."""
    model = load_model(bundle)
    directory._workforce = lambda *_, **__: InProcess(model)
    seconds = _undisturbed_seconds(scans, out)
    undisturbed = contents(out)
    _empty(out)
    moments, hits, found = random.Random(0), 0, []
    while hits < KILLS:
        pid = os.fork()
        if pid == 0:
            _run(scans, out)
        time.sleep(moments.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        _require_whole(out)
        if os.WIFSIGNALED(status):
            hits += 1
            found.append(len(list(out.glob("*_severity.json"))))
        else:  # the run was faster
            _empty(out)
    pid = os.fork()
    if pid == 0:
        _run(scans, out)
    assert os.waitpid(pid, 0)[1] == 0
    assert contents(out) == undisturbed
    print(f"{hits} kills; finished scans found after each: {found}")


def _undisturbed_seconds(scans: Path, out: Path) -> float:
    """How long a run takes, of which the kills then hit any moment."""
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _run(scans, out)
    assert os.waitpid(pid, 0)[1] == 0
    return time.monotonic() - start


def _run(scans: Path, out: Path) -> None:
    """In a fork: assess and end."""
    try:
        assess_directory(scans, out)
    finally:
        os._exit(sys.exc_info()[0] is not None)


def _require_whole(out: Path) -> None:
    """Whatever stands under its own name is whole."""
    for path in out.glob("[!.]*"):
        if path.name.endswith(".json"):
            json.loads(path.read_text())
        elif path.name.endswith(".nii.gz"):
            assert nib.load(path).get_fdata().any()
        elif path.name.endswith(".csv"):
            assert path.read_bytes().endswith(b"\n")


def _empty(out: Path) -> None:
    for path in out.iterdir():
        path.unlink()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
