"""How well a network does on labelled slices and volumes."""

from covsev.training.evaluation.evaluation import evaluate_to_csv

__all__ = ["evaluate_to_csv"]
