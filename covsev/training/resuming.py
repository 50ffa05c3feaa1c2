"""Training that can be interrupted at any epoch and ends with the same weights.

An epoch is made a function of the weights, the optimizer and its own number: it starts by reseeding every source of
randomness. So a run continued from the checkpoint of an epoch does what an uninterrupted one would have done.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.data.utils import set_rnd
from monai.engines import Workflow
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.utils import set_determinism


class ReseedEachEpoch:
    """Handler that seeds Python, numpy, torch, the transforms and the order of the data from the epoch's number.

    Args:
        loader: the engine's data loader.
        seed: of the run.
    """

    def __init__(self, loader: DataLoader, seed: int):
        self.loader = loader
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Reseed whenever ``engine`` starts an epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Reseed, and start the loader anew, since its order was drawn with the old seed."""
        # The epoch's number, not what random numbers were used before: a continued run does not know those.
        seed = self.seed + engine.state.epoch
        set_determinism(seed)
        set_rnd(self.loader.dataset, seed)
        engine.set_data(self.loader)


def run_resumable(
    engine: Workflow,
    state: Mapping[str, Any],
    output_dir: str | Path,
    *,
    final: Mapping[str, Any],
    final_filename: str = "model.pt",
    resume: str | Path | None = None,
    checkpoint_every: int = 1,
) -> None:
    """Run ``engine`` to its end, with checkpoints.

    Writes ``checkpoint_epoch=<n>.pt``, the newest one only, and at the end ``final_filename``: an interrupted run of a
    bundle has none.

    Args:
        engine: to run; its data, networks and numbers must be those of the run that is resumed.
        state: all that a continued run needs, the engine itself left out; objects with ``state_dict``.
        output_dir: folder for the checkpoints, made if missing.
        final: what ``final_filename`` holds.
        final_filename: name of the last file.
        resume: checkpoint to continue from.
        checkpoint_every: epochs between two checkpoints.

    Raises:
        FileNotFoundError: if ``resume`` is not a file.
    """
    everything = {"engine": engine, **state}  # the engine, too: it knows the epoch to go on from
    if resume is not None:
        # Asked here: MONAI would say so only when the engine starts.
        if not Path(resume).is_file():
            raise FileNotFoundError(f"resume: {resume} is not a file")
        CheckpointLoader(str(resume), everything, map_location=engine.state.device).attach(engine)
    CheckpointSaver(str(output_dir), everything, save_interval=checkpoint_every, n_saved=1).attach(engine)
    # A saver of its own: the last file holds what is used, not what a continued run needs.
    CheckpointSaver(str(output_dir), dict(final), save_final=True, final_filename=final_filename).attach(engine)
    engine.run()
