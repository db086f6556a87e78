"""The isolated reader: a process that parses one SMILES a line, under limits on memory, and may be killed at any time.

Runs as ``python -m graph_ebm.chem.worker BYTES``; imports RDKit and numpy, not torch. Each input line is a
JSON pair ["smiles" or "mol", text]; each output line a JSON object: ``reason`` and ``detail``, or ``smiles`` and, for a
SMILES, ``types`` and ``bonds``.
"""

import json
import sys
from typing import Any

from graph_ebm.chem.reader import Refusal, read_graph, read_mol_block
from graph_ebm.processes import limit_memory, say_ready


def main() -> None:
    """Serve until the input ends."""
    limit_memory(int(sys.argv[1]))
    say_ready(sys.stdout)
    for line in sys.stdin:
        kind, text = json.loads(line)
        outcome = read_mol_block(text) if kind == "mol" else read_graph(text)
        if isinstance(outcome, Refusal):
            answer: dict[str, Any] = {"reason": outcome.reason, "detail": outcome.detail}
        elif isinstance(outcome, str):
            answer = {"smiles": outcome}
        else:
            answer = {"smiles": outcome.smiles, "types": outcome.types, "bonds": outcome.bonds.tolist()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
