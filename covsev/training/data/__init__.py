"""From data sets on disk to the slices that a network is trained on."""
