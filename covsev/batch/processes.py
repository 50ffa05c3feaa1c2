"""Scans on several processes of this machine. A process that dies takes no other scan with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from covsev.batch.job import Job, Row, failed
from covsev.errors import BundleError, WorkerError
from covsev.inference.threads import thread_share

# PyTorch and SimpleITK each have threads of their own: without a share, N workers would start N times the cores.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_WAITING = {
    # Threads that wait must not take the core of another worker.
    "OMP_WAIT_POLICY": "PASSIVE",
    # numpy's linear algebra is of small systems, in threads of covsev's own: more threads below these only wait.
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class Worker:
    """A process of :mod:`covsev.batch.worker` and the talk with it.

    A plain subprocess, not ``multiprocessing``: scripts and notebooks need no ``if __name__ == "__main__"``.
    """

    def __init__(self, bundle: Path, threads: int, settings: Mapping[str, str], *, debug: bool) -> None:
        """Start the process; it needs seconds to load the model."""
        share = dict.fromkeys(_THREAD_VARIABLES, str(threads)) | _WAITING
        self._errors = None if debug else tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(  # noqa: S603 - no shell, our own module
            # -P: a file in the user's folder, such as json.py, must not stand in for a module.
            [sys.executable, "-P", "-m", "covsev.batch.worker", str(bundle), json.dumps(dict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=os.environ | share,
        )

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the process says until it ends. Half a line, from a process that died, is left out."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                yield json.loads(line)
        self.process.wait()

    def await_ready(self, on_note: Callable[[str], None] = lambda _: None) -> Mapping[str, Any]:
        """The description of the loaded model.

        Args:
            on_note: called with each line for the user.

        Raises:
            BundleError: if the bundle cannot be loaded.
            WorkerError: if the process dies before.
        """
        message: dict[str, Any] = {"event": "died"}
        for message in self.messages():
            if message["event"] != "note":
                break
            on_note(message["text"])
            message = {"event": "died"}  # if this was the last that it said
        if message["event"] == "refused":
            raise BundleError(message["reason"])
        if message["event"] != "ready":
            raise WorkerError(f"a worker process {self.end()} while it loaded the model{self._last_words()}")
        return message["model"]  # type: ignore[no-any-return]

    def send(self, job: Job | None) -> None:
        """Hand over a job, or ``None`` for no more; a dead process is noticed by its silence."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write((job.to_json() if job else "") + "\n")
            self.process.stdin.flush()
        except OSError:
            return

    def end(self) -> str:
        """How the process ended, in words."""
        code = self.process.wait()
        # A negative code is the number of the signal that ended the process.
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        # SIGKILL is how the system ends a process when memory runs out.
        hint = ", probably for want of memory" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"

    def _last_words(self) -> str:
        """The last line that the process wrote to standard error; with ``debug`` the user has seen it already."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """End the process if it still runs."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # words that a dead process did not take
                continue


class LocalProcesses:
    """Worker processes of this machine, each with its own model and its share of the cores."""

    def __init__(
        self,
        bundle: Path,
        workers: int,
        settings: Mapping[str, str] | None = None,
        *,
        debug: bool = False,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start the workers and wait until the first has loaded the model.

        Args:
            bundle: folder of the lesion network's bundle.
            workers: number of processes.
            settings: of :attr:`covsev.options.Options.model_settings`.
            debug: let the processes write to standard error.
            on_note: called with each line for the user that the first worker has while it loads the model.
        """
        self._bundle, self._threads, self._debug = bundle, thread_share(workers), debug
        self._settings = settings or {}
        # The threads that serve the workers start successors while ``close`` may run.
        self._lock = threading.Lock()
        self._open: list[Worker] = []
        self._started = [self._start() for _ in range(workers)]
        # All load at once; one is waited for, so that a bundle that cannot be loaded fails here, once.
        try:
            self.model = self._started[0].await_ready(on_note)
        except BaseException:  # also an interrupt by the user: no process may be left behind
            self.close()
            raise

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            for worker in self._open:
                worker.close()
            self._open.clear()

    def run(self, jobs: Sequence[Job]) -> Iterator[Row]:
        """Do ``jobs`` and give their rows as they come.

        Processes for which there is no job are ended. Scans that a dying process held are done again at the end, each
        alone in a process of its own; one whose process dies again becomes a row.

        Raises:
            WorkerError: if a process cannot load the model.
        """
        waiting, held_by_dead = deque(jobs), deque[Job]()
        results: SimpleQueue[Row | Exception | None] = SimpleQueue()
        working, surplus = self._started[: len(jobs)], self._started[len(jobs) :]
        for worker in surplus:  # may still be loading: not worth waiting for
            worker.close()
        for number, worker in enumerate(working):
            arguments = (worker, number == 0, waiting, held_by_dead, results)
            threading.Thread(target=self._serve, args=arguments, daemon=True).start()
        serving = len(working)
        # Each thread ends with one ``None``, or with an exception that ends the run.
        while serving:
            result = results.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                serving -= 1
            else:
                yield result
        # Alone, since a dead worker held up to three scans: only one of them may be to blame.
        for job in held_by_dead:
            yield self._run_alone(job)

    def _start(self) -> Worker:
        worker = Worker(self._bundle, self._threads, self._settings, debug=self._debug)
        with self._lock:
            self._open.append(worker)
        return worker

    def _serve(
        self,
        worker: Worker,
        ready: bool,
        waiting: deque[Job],
        held_by_dead: deque[Job],
        results: SimpleQueue[Row | Exception | None],
    ) -> None:
        """Feed one worker, and its successors where it dies, until no job waits."""
        try:
            while True:
                if not ready:
                    worker.await_ready()
                held = _feed(worker, waiting, results, reserved=len(self._started) - 1)
                held_by_dead.extend(held)
                if not waiting:
                    break
                # Without a scan to blame, the next worker would die as well, without end.
                if not held:
                    raise WorkerError(f"a worker process {worker.end()} although it had nothing to do")
                worker, ready = self._start(), False
            results.put(None)
        except Exception as error:  # goes on in the thread that waits for results
            results.put(error)

    def _run_alone(self, job: Job) -> Row:
        worker = self._start()
        worker.await_ready()
        results: SimpleQueue[Row | Exception | None] = SimpleQueue()
        if _feed(worker, deque([job]), results):
            reason = f"{job.source.path}: the process that assessed it {worker.end()}, also when it ran alone"
            return failed(job, "worker_died", reason)
        row = results.get()
        assert isinstance(row, Mapping)
        return row


def _feed(
    worker: Worker, waiting: deque[Job], results: SimpleQueue[Row | Exception | None], *, reserved: int = 0
) -> list[Job]:
    """Give jobs to ``worker`` as it asks for them until it ends; the jobs that it held when it died.

    The last ``reserved`` of the jobs go only to a worker that holds none: read ahead by a busy one, they would wait
    while another has nothing to do.
    """
    held: dict[str, Job] = {}
    asks = False
    for message in worker.messages():
        if message["event"] == "next":
            asks = True
        elif message["event"] == "done":
            del held[message["row"]["case"]]
            results.put(message["row"])
        last_ones = 0 < len(waiting) <= reserved
        if asks and not (held and last_ones):
            asks = False
            job = _next_of(waiting)
            if job is not None:
                held[job.source.case] = job
            worker.send(job)
    return list(held.values())


def _next_of(waiting: deque[Job]) -> Job | None:
    try:
        return waiting.popleft()
    except IndexError:  # another worker may have taken the last one
        return None
