"""How many threads a process should use."""

from __future__ import annotations

import os


def thread_share(workers: int = 1) -> int:
    """Threads for each of ``workers`` processes: this process's cores divided, no more than ``OMP_NUM_THREADS``."""
    # The cores that this process may use, where the system tells; in a container these are fewer than there are.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    # Not a number, or 0: as if it were not set.
    wished = os.environ.get("OMP_NUM_THREADS", "")
    most = int(wished) if wished.isdigit() and int(wished) else cores
    return max(1, min(cores // workers, most))
