"""``python -m covsev``."""

from covsev.cli import main

main()
