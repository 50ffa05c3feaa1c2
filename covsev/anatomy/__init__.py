"""Lungs and lobes: SimpleITK and statistics, no learned network."""
