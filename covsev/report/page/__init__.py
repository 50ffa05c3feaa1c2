"""The page of a scan and the index of many."""
