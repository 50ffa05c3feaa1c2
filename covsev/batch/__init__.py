"""Many scans: on several processes or machines, resumable, each isolated from the failures of the others."""

from covsev.batch.directory import BatchResult, assess_directory

__all__ = ["BatchResult", "assess_directory"]
