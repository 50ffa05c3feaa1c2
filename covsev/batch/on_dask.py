"""Scans on many machines: each is a task of a Dask cluster, which runs it again where a worker is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from covsev import __version__
from covsev.batch.job import Job, Row, failed, failure
from covsev.errors import BundleError, CovsevError, WorkerError
from covsev.inference.threads import thread_share

_CONNECT_SECONDS = 30.0
"""How long a scheduler may take to answer, before the run fails with its address."""
LOCAL = "local"
"""In place of a scheduler's address: a cluster of processes on this machine."""


class DaskCluster:
    """A Dask cluster, found by its scheduler's address or made on this machine."""

    def __init__(self, bundle: Path, scheduler: str, workers: int, settings: Mapping[str, str]) -> None:
        """Connect, and have one worker load the model.

        Args:
            bundle: folder that every worker can read.
            scheduler: address such as ``tcp://10.0.0.1:8786``, or :data:`LOCAL`.
            workers: processes of a local cluster.
            settings: of :attr:`covsev.options.Options.model_settings`.

        Raises:
            WorkerError: if Dask is not installed, no scheduler answers, or the workers have another covsev.
            BundleError: if the bundle cannot be loaded.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise WorkerError("Dask is not installed; pip install 'covsev[dask]'") from error
        self._bundle = bundle
        self._cluster = _local_cluster(workers) if scheduler == LOCAL else None
        # From here on a failure must end the local cluster, whose processes would go on.
        try:
            self._client = Client(self._cluster or scheduler, timeout=_CONNECT_SECONDS)
            self.model = self._describe(settings)
        except (OSError, TimeoutError, ValueError) as error:
            self.close()
            # Some of covsev's own errors are ValueErrors: they already say what is wrong.
            if isinstance(error, CovsevError):
                raise
            raise WorkerError(f"no Dask scheduler answers at {scheduler} ({type(error).__name__})") from error

    def __enter__(self) -> DaskCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is not done, and end a local cluster."""
        # ``getattr``, since connecting may have failed: then there is no client yet.
        for part in (getattr(self, "_client", None), self._cluster):
            if part is not None:
                part.close()

    def run(self, jobs: Sequence[Job]) -> Iterator[Row]:
        """Do ``jobs`` and give their rows as they come.

        A scan that takes down several workers (Dask's ``distributed.scheduler.allowed-failures``) becomes a row.
        """
        from distributed import as_completed

        # Not pure: a job that was done before must be done again, not answered from memory.
        futures = {self._client.submit(_assess, job, self._bundle, pure=False): job for job in jobs}
        for future in as_completed(futures):
            yield _row(futures[future], future)
            future.release()  # so that the cluster keeps no rows

    def _describe(self, settings: Mapping[str, str]) -> Mapping[str, Any]:
        model = self._client.submit(_describe, self._bundle, dict(settings), pure=False).result()
        if "refused" in model:
            raise BundleError(model["refused"])
        # Results of two versions in one table could not be compared.
        if model["covsev_version"] != __version__:
            raise WorkerError(f"the cluster has covsev {model['covsev_version']}, this machine {__version__}")
        return model  # type: ignore[no-any-return]


def _local_cluster(workers: int) -> Any:
    from distributed import LocalCluster

    environment = {"OMP_NUM_THREADS": str(thread_share(workers)), "OMP_WAIT_POLICY": "PASSIVE"}
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        # Only this machine may connect: Dask's workers run code from anyone who can reach them.
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        env=environment,
        # No limit: Dask would kill a worker at its share of the memory, although a large scan fits into the machine.
        memory_limit=None,
        silence_logs=logging.ERROR,
    )


def _row(job: Job, future: Any) -> Row:
    """The row of a task that has ended, however it ended."""
    from distributed import KilledWorker

    try:
        return future.result()  # type: ignore[no-any-return]
    except KilledWorker:
        return failed(job, "worker_died", f"{job.source.path}: the workers that assessed it died, one after the other")
    except Exception as error:  # such as a cancelled task, or a worker that cannot import covsev
        return failure(job, error)


def _assess(job: Job, bundle: Path) -> Row:
    """On a worker: one scan."""
    from covsev.batch.work import assess_job

    return assess_job(job, bundle)


def _describe(bundle: Path, settings: dict[str, str]) -> dict[str, Any]:
    """On a worker: the loaded model in words."""
    from covsev.batch.work import cached_model, describe

    try:
        return describe(cached_model(bundle, **settings))
    except CovsevError as error:
        return {"refused": str(error)}
