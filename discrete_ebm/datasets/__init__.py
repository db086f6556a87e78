"""Data: sets made on the spot, digits inside the package, and files of images, tables and aligned sequences.

    data = de.datasets.get("digits")                 # .train, .valid, .test (kept aside), .labels, .space
    data = de.datasets.get("family.fasta", weights_at=0.8)
"""

from discrete_ebm.datasets import densities
from discrete_ebm.datasets.alignments import Alignment, read_alignment, sequence_weights
from discrete_ebm.datasets.catalogue import get, names, read
from discrete_ebm.datasets.files import load
from discrete_ebm.datasets.images import digits, mnist, omniglot, static_mnist, torchvision
from discrete_ebm.datasets.parts import Dataset, as_states, split_rows
from discrete_ebm.datasets.toys import bars_and_stripes, ising

__all__ = [
    "Alignment",
    "Dataset",
    "as_states",
    "bars_and_stripes",
    "densities",
    "digits",
    "get",
    "ising",
    "load",
    "mnist",
    "names",
    "omniglot",
    "read",
    "read_alignment",
    "sequence_weights",
    "split_rows",
    "static_mnist",
    "torchvision",
]
