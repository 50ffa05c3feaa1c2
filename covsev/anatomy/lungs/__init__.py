"""The right and the left lung."""
