"""Pretraining without labels: inpainting against a coach, and rotation."""
