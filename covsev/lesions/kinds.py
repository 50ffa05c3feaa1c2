"""Ground-glass opacity and consolidation from where infection is and which of it is denser."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covsev.labels import CONSOLIDATION, GROUND_GLASS


def lesion_labels(infected: NDArray[np.bool_], denser: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Lesion labels from an infection mask: consolidation where ``denser``, else ground-glass opacity."""
    # Ground glass wherever there is infection; consolidation then takes its part.
    labels = infected.astype(np.uint8) * np.uint8(GROUND_GLASS.id)
    labels[infected & denser] = CONSOLIDATION.id
    return labels
