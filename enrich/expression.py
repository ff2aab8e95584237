"""What a subject's own training cells express: a snippet to cite, and figures to check claims by.

Cells are compared within one tissue of one dataset, so that neither laboratory nor organ passes for
the cell type; and within one disease, development stage and sex where enough other types have cells
there. Cells of the splits ``validation`` and ``test`` are never read: what they express must not
reach the texts that they are tested with.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from okrcell.corpus.gene_tables import current
from okrcell.enrich.evidence import EXPRESSION, Evidence, GeneStat
from okrcell.enrich.names import find_names
from okrcell.enrich.profile_text import known_label
from okrcell.enrich.training_cells import Comparison, TrainingCells

__all__ = ["Expression", "expression_evidence"]
