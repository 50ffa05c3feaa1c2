"""A worker process: ``python -m covsev.batch.worker BUNDLE SETTINGS``, started by :mod:`covsev.batch.processes`.

SETTINGS is the JSON form of :attr:`covsev.options.Options.model_settings`. The process speaks in lines of JSON. Out:
``ready`` with the model's description, or ``refused``; ``next`` to ask for a scan; ``done`` with a row. In: a job, or
an empty line for no more. It ends with its parent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from covsev.errors import CovsevError
from covsev.options import BUNDLES

# MONAI imports each of these where it is installed, and covsev's inference uses none of them.
_FOR_TRAINING = (
    "IPython",
    "ignite",
    "itk",
    "matplotlib",
    "onnx",
    "pandas",
    "scipy.signal",
    "tensorboard",
    "torchvision",
    "transformers",
)


@contextmanager
def without_training_packages() -> Iterator[None]:
    """Let MONAI find none of the packages that only training needs.

    MONAI imports all of them where they are installed. That takes longer than everything else that a worker does
    before its first scan. Afterwards they can be imported again, but MONAI goes without them until the process ends.
    So this is for covsev's own bundles only.
    """
    hidden = [name for name in _FOR_TRAINING if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name)


def main(bundle: Path, settings: Mapping[str, Any], commands: TextIO, answers: TextIO) -> None:
    """Load the model, then do the jobs that ``commands`` brings until there are no more."""
    with without_training_packages() if bundle.is_relative_to(BUNDLES) else nullcontext():
        from covsev.batch.job import Job
        from covsev.batch.work import describe, work_through
        from covsev.lesions.model import load_model

    lines: SimpleQueue[str] = SimpleQueue()
    speaking = threading.Lock()

    def say(event: str, **content: Any) -> None:
        # Reading and writing run in threads of their own: their lines must not mix.
        with speaking:
            answers.write(json.dumps({"event": event} | content) + "\n")
            answers.flush()  # the parent waits for whole lines

    def jobs() -> Iterator[Job]:
        # Each is asked for when the one before is handed on, so that it is read while that one is computed.
        say("next")
        while line := lines.get().strip():
            yield Job.from_json(line)
            say("next")

    try:
        model = load_model(bundle, **settings)
    except CovsevError as error:
        say("refused", reason=str(error))
        return
    # A thread of its own notices the parent's death also while a scan is computed.
    threading.Thread(target=_listen, args=(commands, lines), daemon=True).start()
    say("ready", model=describe(model))
    work_through(jobs(), model, lambda row: say("done", row=dict(row)))


def _listen(commands: TextIO, lines: SimpleQueue[str]) -> None:
    """Hand on lines until the stream ends, which means that the parent died; then end at once, whatever goes on."""
    for line in commands:
        lines.put(line)
    os._exit(1)


if __name__ == "__main__":
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.stdin, private)
    os._exit(0)  # the listener still holds the input, over which an orderly end would stumble
