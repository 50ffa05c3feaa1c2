"""A worker process: ``python -m covsev.batch.worker BUNDLE SETTINGS``, started by :mod:`covsev.batch.processes`.

SETTINGS is the JSON form of :attr:`covsev.options.Options.model_settings`. The process speaks in lines of JSON. Out:
``note`` with a line for the user; ``ready`` with the model's description, or ``refused``; ``next`` to ask for a scan;
``done`` with a row. In: a job, or an empty line for no more. It ends with its parent.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from covsev.errors import CovsevError
from covsev.options import BUNDLES, Options

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
    from covsev.assessment import lung_model_for
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

    _hand_on_notes(lambda text: say("note", text=text))
    try:
        # Torch and MONAI are imported here, unless the models are kept ready.
        own = bundle.is_relative_to(BUNDLES)
        with without_training_packages() if own else nullcontext():
            model = load_model(bundle, **settings)
            if own:  # else MONAI is imported whole in any case, and the first scan can wait for it
                lung_model_for(Options(**settings))
    except CovsevError as error:
        say("refused", reason=str(error))
        return
    # A thread of its own notices the parent's death also while a scan is computed.
    threading.Thread(target=_listen, args=(commands, lines), daemon=True).start()
    say("ready", model=describe(model))
    work_through(jobs(), model, lambda row: say("done", row=dict(row)))


def _hand_on_notes(say: Callable[[str], None]) -> None:
    """Give what the networks' preparation logs to ``say``: it may take a minute, and a user should know why."""
    log = logging.getLogger("covsev.inference")
    log.setLevel(logging.INFO)
    log.addHandler(_Notes(say))


class _Notes(logging.Handler):
    def __init__(self, say: Callable[[str], None]):
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.getMessage())


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
