"""Which slices come from one patient, and folds that keep a patient together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

FOLDS = 5
"""Of every manifest. The stored folds and all figures of ``docs/results.md`` depend on it."""
SAME_PATIENT_CORRELATION = 0.70
"""Rank correlation from which two thumbnails count as one patient's. Another value makes other folds."""


def same_patient_groups(thumbnails: Sequence[NDArray[np.float64]]) -> NDArray[np.int64]:
    """Group slices that visibly come from one patient.

    Two slices belong together if the Spearman correlation of their thumbnails reaches ``SAME_PATIENT_CORRELATION``.
    Groups are the connected components. Ranks, unlike grey values, do not depend on the window.

    Returns:
        one group number a slice, from 0.

    The same slice in a wider window is one patient's; its negative is not:

    >>> thumbnail = np.arange(16.0).reshape(4, 4)
    >>> same_patient_groups([thumbnail, 0.5 * thumbnail + 3, -thumbnail]).tolist()
    [0, 0, 1]
    """
    ranks = np.stack([rankdata(thumbnail.ravel()) for thumbnail in thumbnails])
    # Pearson's correlation of ranks is Spearman's. A single slice gives a number, not a matrix.
    correlation = np.atleast_2d(np.corrcoef(ranks))
    # Connected: slices far apart in one chest are not alike, but those between them link the two.
    _, groups = connected_components(correlation >= SAME_PATIENT_CORRELATION, directed=False)
    return groups.astype(np.int64)


def assign_folds(groups: NDArray[Any], *, folds: int, seed: int) -> NDArray[np.int64]:
    """Spread groups over folds of nearly equal size: largest groups first, each into the smallest fold.

    Args:
        groups: one number or name an item.
        folds: number of folds; with fewer groups, some stay empty.
        seed: of the order among groups of one size.

    Returns:
        one fold number an item, from 0 to ``folds - 1``.

    Seven slices of four patients; no patient is in two folds:

    >>> assign_folds(np.array(["a", "a", "a", "b", "b", "c", "d"]), folds=2, seed=0).tolist()
    [0, 0, 0, 1, 1, 1, 0]
    """
    names, sizes = np.unique(groups, return_counts=True)
    # Shuffled first, then sorted in a stable way: the seed decides among groups of one size.
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_sizes = np.zeros(folds, dtype=np.int64)
    fold_of = {}
    for index in order:
        fold = int(np.argmin(fold_sizes))
        fold_of[names[index]] = fold
        fold_sizes[fold] += sizes[index]
    return np.array([fold_of[group] for group in groups])
