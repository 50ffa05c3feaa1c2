"""MONAI bundles, installed as package data: one folder a model, configuration and weights, no Python."""
