"""``covsev warm-up``: the networks prepared ahead, so that the first assessment starts as fast as all others."""

from __future__ import annotations

import logging

import typer

from covsev.commands import console


def add_commands(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command(name="warm-up")(warm_up)


def warm_up() -> None:
    """Prepare the shipped networks for this computer, once after the installation. Then covsev starts in seconds."""
    from covsev.assessment import lung_model_for, shipped_model
    from covsev.inference.cache import cache_folder
    from covsev.options import Options

    # What the preparation logs is what the user should see: which networks, and why.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("covsev.inference").setLevel(logging.INFO)
    with console.errors_in_words():
        model = shipped_model()
        lung_model_for(Options())
    kept = model.runs_on.startswith("openvino")
    where = f"; kept in {cache_folder()}" if kept else ": nothing to prepare; install covsev[openvino] for a fast start"
    console.output.print(f"the networks run on {model.runs_on}{where}", highlight=False, markup=False)
