"""``python -m covsev``."""

from covsev.commands.main import main

main()
