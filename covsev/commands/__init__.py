"""The command line: a file for each group of commands. It parses and prints; the work is done elsewhere."""
