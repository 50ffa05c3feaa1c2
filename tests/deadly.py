"""A network for worker processes that makes them die at certain scans; workers find it through ``PYTHONPATH``.

Cases are told by their names: ``killed…`` always ends its process, ``fragile…`` only the first time, ``slow…`` takes a
while. ``COVSEV_TEST_MARKS`` names a folder in which the deaths are noted. With ``COVSEV_TEST_OFFLINE`` set, whoever
opens a connection ends its process.
"""

import os
import signal
import socket
import time
from pathlib import Path

from torch import nn

from covsev.batch import work

_compute = work.compute


def compute(job, scan, model):
    marks, case = Path(os.environ["COVSEV_TEST_MARKS"]), job.source.case
    mark = marks / case
    if case.startswith("killed") or (case.startswith("fragile") and not mark.exists()):
        mark.write_text(mark.read_text() + "x" if mark.exists() else "x")
        os.kill(os.getpid(), signal.SIGKILL)
    if case.startswith("slow"):
        (marks / f"{case}.{os.getpid()}").touch()
        time.sleep(0.5)
    return _compute(job, scan, model)


work.compute = compute
if "COVSEV_TEST_OFFLINE" in os.environ:
    socket.socket.connect = lambda *_: os._exit(99)


class Network(nn.Conv2d):
    """That of the bright bundle."""

    def __init__(self):
        super().__init__(1, 1, 1)
