"""What the commands share: where they print, their exit codes, and how an error becomes one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

EXIT_SOME_FAILED = 1
EXIT_NOTHING_DONE = 2
EXIT_INTERRUPTED = 130
"""What shells use for a program that Ctrl-C ended: 128 and the signal's number, 2."""

# Results to standard output, all else to standard error, so that results can be piped.
output = Console()
errors = Console(stderr=True)


def print_error(error: Exception) -> None:
    """Print what went wrong as one line, in red where the terminal has colours."""
    # Escaped, since rich would take a "[...]" in a path as markup and drop it.
    errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Turn errors about the input into one line and exit code 2."""
    from covsev.errors import CovsevError

    # Only errors that a user can act on. Any other one is a fault of covsev, and its traceback is wanted.
    try:
        yield
    except (CovsevError, OSError) as error:
        print_error(error)
        raise typer.Exit(EXIT_NOTHING_DONE) from error
