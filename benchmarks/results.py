"""Write the tables of docs/results.md from the metrics that benchmarks/compare.py stored.

python benchmarks/results.py        (or: make results)
"""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve busy machines

from covsev.training.evaluation.variants import comparison_table, paired_table, replace_between

DOCS = Path(__file__).parents[1] / "docs"
TABLES = {  # mark in docs/results.md: stem of the files, lesion
    "comparison infection": ("infection", "infection"),
    "comparison ground glass": ("lesion", "ground_glass"),
    "comparison consolidation": ("lesion", "consolidation"),
    "comparison ground glass, true prior": ("lesion_true_prior", "ground_glass"),
    "comparison consolidation, true prior": ("lesion_true_prior", "consolidation"),
}


def main() -> None:
    manifest = json.loads((resources.files("covsev.data_manifests") / "covid_semiseg.json").read_text())
    folds = {Path(record["image"]).name: record["fold"] for record in manifest["training"]}
    page = DOCS / "results.md"
    text = page.read_text()
    stored = DOCS / "results" / "comparison"
    for name, (stem, lesion) in TABLES.items():
        text = replace_between(text, name, comparison_table(stored, folds, stem=stem, lesion=lesion))
    text = replace_between(text, "pairs infection", paired_table(stored, folds, stem="infection", lesion="infection"))
    page.write_text(text)
    print(f"{page} rewritten")


if __name__ == "__main__":
    main()
