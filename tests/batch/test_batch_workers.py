"""Worker processes and Dask: equal results, deaths that cost one scan, and parents that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from queue import SimpleQueue

import pytest
from result_files import contents, table

from covsev.batch import assess_directory, on_dask, processes, work
from covsev.batch.job import Job
from covsev.batch.processes import LocalProcesses
from covsev.errors import BundleError, ScanError, WorkerError
from covsev.inference.threads import thread_share
from covsev.options import BUNDLES, Options
from covsev.scan import ScanSource

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scans(small_scan, tmp_path_factory):
    """Four good scans and a broken one."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(4):
        shutil.copy(small_scan, folder / f"slow{number}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"x")
    return folder


@pytest.fixture(scope="module")
def deadly_bundle(bright_bundle, tmp_path_factory):
    """The bright bundle with the network of ``deadly.py``."""
    bundle = tmp_path_factory.mktemp("deadly") / "bundle"
    shutil.copytree(bright_bundle, bundle)
    config = bundle / "configs" / "inference.yaml"
    network = "{_target_: torch.nn.Conv2d, in_channels: 1, out_channels: 1, kernel_size: 1}"
    text = config.read_text()
    assert network in text
    config.write_text(text.replace(network, "{_target_: deadly.Network}"))
    return bundle


@pytest.fixture(autouse=True)
def marks(monkeypatch, tmp_path):
    """Where the workers' deaths are noted; workers find ``deadly.py``."""
    folder = tmp_path / "marks"
    folder.mkdir()
    monkeypatch.setenv("COVSEV_TEST_MARKS", str(folder))
    others = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []  # an empty part is the current folder
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *others]))
    return folder


@pytest.fixture(scope="module")
def undisturbed(scans, bright_bundle, tmp_path_factory):
    """What one worker makes of ``scans``."""
    out = tmp_path_factory.mktemp("undisturbed")
    result = assess_directory(scans, out, bundle=bright_bundle)
    assert result.failed == 1
    return contents(out)


# ---- workers -----------------------------------------------------------------------------------------------------


def test_two_workers_give_what_one_gives(scans, bright_bundle, undisturbed, tmp_path):
    assess_directory(scans, tmp_path / "out", bundle=bright_bundle, workers=2)
    assert contents(tmp_path / "out") == undisturbed


def test_a_dying_worker_costs_its_scan_a_retry_alone_and_then_a_row(
    small_scan, deadly_bundle, marks, tmp_path, monkeypatch
):
    monkeypatch.setenv("COVSEV_TEST_OFFLINE", "1")  # and no scan needs a network
    monkeypatch.setattr("socket.socket.connect", None)
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a", "fragile", "killed", "z"):
        shutil.copy(small_scan, folder / f"{name}.nii.gz")
    assess_directory(folder, tmp_path / "out", bundle=deadly_bundle, workers=2)
    rows = table(tmp_path / "out" / "severity.csv")
    assert {case: row["status"] for case, row in rows.items()} == {
        "a": "ok", "fragile": "ok", "killed": "failed", "z": "ok",
    }  # fmt: skip
    assert rows["killed"]["code"] == "worker_died"
    assert "was ended by SIGKILL, probably for want of memory, also when it ran alone" in rows["killed"]["reason"]
    deaths = {mark.name: mark.read_text() for mark in marks.iterdir()}
    assert deaths["fragile"] == "x"
    assert deaths["killed"] in ("x", "xx"), "the first may have been that of a worker that only held it"


def test_a_bundle_that_cannot_be_loaded_stops_the_run(scans, tmp_path):
    with pytest.raises(BundleError, match="not a covsev bundle"):
        assess_directory(scans, tmp_path / "out", bundle=tmp_path)
    assert not (tmp_path / "out").exists()


def test_workers_run_no_code_that_lies_beside_the_scans(small_scan, bright_bundle, tmp_path, monkeypatch):
    shutil.copy(small_scan, tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('code of a folder of scans was run')")
    monkeypatch.chdir(tmp_path)
    result = assess_directory(Path(), Path("out"), bundle=bright_bundle)
    assert [row["status"] for row in result.rows] == ["ok"]


@pytest.mark.parametrize(("bundle", "hidden"), [(BUNDLES / "nowhere", True), (Path("nowhere"), False)])
def test_a_worker_of_covsevs_own_bundles_loads_nothing_that_only_training_needs(bundle, hidden):
    lines = [
        "import sys",
        "from pathlib import Path",
        "from covsev.batch.worker import main",
        f"main(Path({str(bundle)!r}), {{}}, sys.stdin, sys.stdout)",
        "assert 'monai' in sys.modules, 'not imported'",
        f"assert ('ignite' not in sys.modules) == {hidden}",
        f"assert ('matplotlib' not in sys.modules) == {hidden}",
        f"assert ('pandas' not in sys.modules) == {hidden}",
        "import ignite, matplotlib",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_a_worker_that_cannot_start_stops_the_run_with_its_last_words(scans, bright_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(processes.sys, "executable", shutil.which("false"))
    with pytest.raises(WorkerError, match=r"a worker process ended with exit code 1 while it loaded the model$"):
        assess_directory(scans, tmp_path / "out", bundle=bright_bundle)
    (tmp_path / "python").write_text("#!/bin/sh\necho no such thing >&2\nkill -SEGV $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(WorkerError, match="was ended by SIGSEGV while it loaded the model: no such thing"):
        assess_directory(scans, tmp_path / "out", bundle=bright_bundle)


@pytest.mark.parametrize("scheduler", [None, "local"])
def test_the_device_is_that_of_the_options_wherever_the_work_is_done(scheduler, scans, bright_bundle, tmp_path):
    if scheduler:
        pytest.importorskip("distributed")
    with pytest.raises(BundleError, match=r"device cuda:99: torch .* CUDA GPU here"):
        assess_directory(scans, tmp_path / "out", Options(device="cuda:99"), bundle=bright_bundle, scheduler=scheduler)


def test_an_idle_worker_that_dies_stops_the_run(bright_bundle, tmp_path, monkeypatch):
    with LocalProcesses(bright_bundle, 1) as workforce:
        workforce._open[0].process.kill()
        workforce._open[0].process.wait()
        list(workforce._open[0].process.stdout)  # what it had asked for
        jobs = [object()]
        with pytest.raises(WorkerError, match=r"was ended by SIGKILL.* although it had nothing to do"):
            list(workforce.run(jobs))


def test_workers_without_a_job_are_ended_and_not_waited_for(tmp_path, monkeypatch):
    started = []

    class Starting:
        def __init__(self, *_, **__):
            self.closed = False
            started.append(self)

        def await_ready(self, *_):
            assert self is started[0], "waited for a worker that has no job"
            return {}

        def close(self):
            self.closed = True

    monkeypatch.setattr(processes, "Worker", Starting)
    with LocalProcesses(tmp_path, 3) as workforce:
        assert list(workforce.run([])) == []
        assert [worker.closed for worker in started] == [True] * 3


class Talking:
    """A worker that says ``events``: that it wants a job, or which one is done; or others take what waits."""

    def __init__(self, events, waiting):
        self._events, self._waiting, self.given = events, waiting, []

    def messages(self):
        for event in self._events:
            if event == "others":
                self._waiting.clear()
            elif event == "next":
                yield {"event": "next"}
            else:
                yield {"event": "done", "row": {"case": event}}

    def send(self, job):
        self.given.append(job and job.source.case)


@pytest.mark.parametrize(
    ("events", "reserved", "given"),
    [
        (("next", "next", "next", "a", "b"), 0, ["a", "b", None]),
        (("next", "next", "a", "next", "b"), 1, ["a", "b", None]),
        (("next", "next"), 1, ["a"]),
        (("next", "next", "others", "a"), 1, ["a", None]),
        (("next", "others", "next", "a"), 1, ["a", None]),
    ],
)
def test_the_last_jobs_are_left_to_workers_that_hold_none(events, reserved, given, tmp_path):
    waiting = deque(Job(ScanSource(case, tmp_path), tmp_path, Options(), "") for case in "ab")
    worker = Talking(events, waiting)
    rows = SimpleQueue()
    held = processes._feed(worker, waiting, rows, reserved=reserved)
    assert worker.given == given
    assert [job.source.case for job in held] == [case for case in given if case and case not in events]
    assert rows.qsize() == sum(event in ("a", "b") for event in events)


def test_a_scan_is_computed_while_the_next_is_not_there_yet(tmp_path, bright_model, monkeypatch):
    computed = threading.Event()
    monkeypatch.setattr(work, "read", lambda _: None)
    monkeypatch.setattr(work, "compute", lambda *_: computed.set() or ScanError("computed"))

    def jobs():
        for case in "ab":
            yield Job(ScanSource(case, tmp_path), tmp_path, Options(), "")
            assert computed.wait(30), "the first scan waits for the second"

    rows = []
    work.work_through(jobs(), bright_model, rows.append)
    assert [row["case"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("cores", "wished", "workers", "threads"),
    [(8, "", 1, 8), (8, "", 2, 4), (8, "", 3, 2), (2, "", 5, 1), (8, "2", 1, 2), (8, "2", 8, 1), (8, "x", 2, 4)],
)
def test_workers_share_the_cores(cores, wished, workers, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", wished)
    assert thread_share(workers) == threads


def test_no_worker_outlives_a_killed_parent(scans, deadly_bundle, bright_bundle, undisturbed, marks, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "covsev", "severity", scans, "-o", out, "--bundle", deadly_bundle]
    parent = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    worker = _wait_for(lambda: [int(mark.suffix[1:]) for mark in marks.glob("slow2.*")])[0]  # slow0 is written
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait_for(lambda: not Path(f"/proc/{worker}/stat").exists() or " Z " in Path(f"/proc/{worker}/stat").read_text())
    result = assess_directory(scans, out, bundle=bright_bundle)
    assert result.skipped >= 1
    assert contents(out) == undisturbed


def _wait_for(condition, seconds=600):  # a busy machine takes minutes to start a worker
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


# ---- kills -------------------------------------------------------------------------------------------------------


def test_kills_at_any_moment_leave_what_a_rerun_completes(small_scan, bright_bundle, tmp_path):
    """24 kills: see ``killed_runs.py``."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(small_scan, folder / f"{name}.nii.gz")
    (folder / "bad.nii.gz").write_bytes(b"bad")
    command = [sys.executable, str(TESTS / "killed_runs.py"), str(folder), str(tmp_path / "out"), str(bright_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("24 kills; ")


# ---- Dask --------------------------------------------------------------------------------------------------------


def test_a_cluster_that_loses_a_worker_gives_what_one_process_gives(scans, deadly_bundle, undisturbed, marks, tmp_path):
    pytest.importorskip("distributed")

    def kill_one():
        pids = _wait_for(lambda: [int(mark.suffix[1:]) for mark in marks.glob("slow*.*")])
        os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    result = assess_directory(scans, tmp_path / "out", bundle=deadly_bundle, workers=2, scheduler="local")
    killer.join()
    assert result.failed == 1
    assert len({mark.suffix for mark in marks.glob("slow*.*")}) > 1, "another worker did the rest"
    assert len(list(marks.glob("slow*.*"))) == 5, "one of four scans was done twice"
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_a_scheduler_that_does_not_answer_is_named(scheduler, scans, bright_bundle, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(on_dask, "_CONNECT_SECONDS", 1.0)
    with pytest.raises(WorkerError, match=f"no Dask scheduler answers at {scheduler}"):
        assess_directory(scans, tmp_path / "out", bundle=bright_bundle, scheduler=scheduler)


def test_dask_is_an_extra(scans, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(WorkerError, match=r"Dask is not installed; pip install 'covsev\[dask\]'"):
        assess_directory(scans, tmp_path / "out", scheduler="local")
