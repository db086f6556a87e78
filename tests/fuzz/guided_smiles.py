"""Coverage-guided search for strings that the SMILES reader cannot cope with; needs `pip install atheris`.

    python -m tests.fuzz.guided_smiles -max_total_time=120 [a folder for what it learns]

Each string must come to a graph that reads back as itself or to a refusal with a known reason, as in
test_fuzz_smiles.py; the first that does not ends the search and is written to a file. Atheris instruments the Python
of the reader (RDKit itself is not instrumented). Strings that belong in the worker process are screened only.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["graph_ebm.chem"]):
    from graph_ebm.chem.reader import screen
    from tests.fuzz.test_fuzz_smiles import check


def one(data: bytes) -> None:
    """Half of the strings are text as it comes, half are pieces of the grammar picked by the bytes."""
    from tests.fuzz.strategies import ATOMS, OTHER

    pieces = ATOMS + OTHER
    if data[:1] and data[0] % 2:
        text = data[1:].decode("latin-1")
    else:
        text = "".join(pieces[byte % len(pieces)] for byte in data[1:])
    if screen(text).safe:
        check(text)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
