"""Semi-supervised training with pseudo labels."""
