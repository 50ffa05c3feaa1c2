"""A stand-in for worker processes: the same work in this process, without the seconds that a process needs."""

from __future__ import annotations

from covsev.batch.work import describe, work_through


class InProcess:
    """Does jobs as a worker process does them."""

    def __init__(self, model):
        self._model, self.model, self.jobs_done = model, describe(model), []

    def run(self, jobs):
        """One job after another, so that rows come as they are done."""
        for job in jobs:
            rows = []
            work_through([job], self._model, rows.append)
            self.jobs_done.append(job.source.case)
            yield from rows

    def close(self):
        """Nothing to end."""
