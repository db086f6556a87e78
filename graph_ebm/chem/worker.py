"""The isolated reader: a process that parses one SMILES a line, under limits on memory, and may be killed at any time.

Runs as ``python -m graph_ebm.chem.worker BYTES``; imports RDKit and numpy, not torch. Each input line is a JSON
string; each output line a JSON object with either ``reason`` and ``detail``, or ``smiles``, ``types`` and ``bonds``.
"""

import json
import sys

from graph_ebm.chem.reader import Refusal, read_graph


def limit_memory(n_bytes: int) -> None:
    """Cap the address space of this process where the system can; no core dumps from planned crashes."""
    try:
        import resource
    except ImportError:  # not a POSIX system: the time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve until the input ends."""
    limit_memory(int(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        outcome = read_graph(json.loads(line))
        if isinstance(outcome, Refusal):
            answer = {"reason": outcome.reason, "detail": outcome.detail}
        else:
            answer = {"smiles": outcome.smiles, "types": outcome.types, "bonds": outcome.bonds.tolist()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
