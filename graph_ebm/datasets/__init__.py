"""Molecules to start from: three samples inside the package, and readers for the user's own files.

molecules = graph_ebm.datasets.load("zinc-sample")
molecules = graph_ebm.datasets.read("mine.csv", column="SMILES")
"""

from graph_ebm.datasets.files import Table, read, read_table
from graph_ebm.datasets.packaged import PackagedSet, describe, load, names, register

__all__ = ["PackagedSet", "Table", "describe", "load", "names", "read", "read_table", "register"]
