"""Strings that have hurt, or could hurt, a process that reads SMILES: at least 200, made by program."""

import random

# PubChem CID 102128817: took RDKit hours and 200 GB in 2017 (RDKit #1281, #1360).
MONSTER = (
    "COC1=CC=C(C=C1)C2C3=C(C=CC4=CC=CC=C43)OC5=CC6=C(C=C5)C7=NC8=C9C=CC1=CC9=C(N8)N=C3C4=C5C=CC(=C4)OC4=C(C(C8=C(C=CC9="
    "CC=CC=C98)OC8=CC9=C(C=C8)C8=NC9=NC9=C%10C=C(C=CC%10=C(N9)N=C9C%10=C(C=C(C=C%10)OC%10=C2C2=CC=CC=C2C=C%10)C(=N9)NC2"
    "=NC(=N8)C8=C2C=C(C=C8)OC2=C(C(C8=C(C=CC9=CC=CC=C98)OC8=CC9=C(C=C8)C(=NC5=N3)N=C9NC6=N7)C3=CC=C(C=C3)OC)C3=CC=CC=C3"
    "C=C2)OC2=C(C(C3=C(O1)C=CC1=CC=CC=C13)C1=CC=C(C=C1)OC)C1=CC=CC=C1C=C2)C1=CC=C(C=C1)OC)C1=CC=CC=C1C=C4"
)

BRACKETS = """
C CH9 CH99 C+99 C+++++++++ C-200 999C 99999999999C C:1 C:99999999999 CH-1 Xx #6 #999 #99999999999999999999 0 13CH4 2H H
H+ H- He C@@@@@ C@TH9 C@OH31 CH2 O N C+99999999999999999999 $(CC) C;H1 !C C,N Uuo Og og cH se te as b *
"""
GRAMMAR = r"""
= # - C= =C C==C C=#C C$C C~C C->[Fe] [Fe]<-C C:C C/C=C\C F/C=C/F . .. C. .C C..C C>>C C>C>C () C() C()C (C) C(C))
C((C))
% ? C?C c cc c1cccc1 c1ccccc1c n1cccc1 [nH]1cccc1 c1ccc2c1cccc2 o1cccc1 C1=CC=CC=C1 c:c
C%(999999999999999999)C C%(-1)C%(-1) C% C%1 C%()C%() C11 C1C1 C1CC2 C12CC12 C0CC0
"""
CHEMISTRY = """
C(C)(C)(C)(C)C O(C)(C)C F(F)F CN(C)(C)C [O]=[O] [CH3] [CH2] [C-]#[O+] N#N [N]=O [H][H] [H]C [2H]C([2H])[2H] [Na+].[Cl-]
O=[N+]([O-])c1ccccc1 CS(=O)(=O)S [SH4] [PH5] F[Xe]F [Fe] [Cu+2] C[Si](C)(C)C B(O)O [B-](F)(F)(F)F C=[N+]=[N-]
Cl[Pt](Cl)(N)N
"""
STRANGE = "\x00\x01\x07\x08\x0b\x0c\x1b\x7f\x80\x85\xa0\u200b\u200d\u2028\ufeff\u0421\uff23\U0001f600"


def mark(number: int) -> str:
    """A ring-closure mark."""
    return str(number) if number < 10 else f"%{number}" if number < 100 else f"%({number})"


def complete_graph(n: int, atom: str) -> str:
    """Every atom bonded to every other: a ring storm."""
    pairs = {pair: i + 1 for i, pair in enumerate((i, j) for i in range(n) for j in range(i + 2, n))}
    return "".join(atom + "".join(mark(k) for pair, k in pairs.items() if i in pair) for i in range(n))


def ladder(n: int, atom: str) -> str:
    """n fused rings in a row, all ring marks open at once."""
    forth = "".join(f"{atom}{mark(i + 1)}" for i in range(n))
    back = "".join(f"{atom}{mark(i + 1)}" for i in reversed(range(n)))
    return forth + back


def corpus() -> list[object]:
    """The hostile entries, in a fixed order."""
    entries: list[object] = [None, 5, 1.5, b"CCO", ["C"], {}, True, "", " ", "\n", "\t \r\n"]
    # Nests: 24 kB canonicalises in seconds, 60 kB overflows the stack of an unguarded RDKit.
    entries += ["C(" * n + "C" + ")" * n for n in (10, 30, 63, 64, 65, 100, 300, 1_000, 12_000, 30_000, 75_000)]
    entries += ["C(" * n for n in (1, 64, 65, 500, 30_000)] + [")" * n for n in (1, 64, 500, 30_000)]
    entries += ["[" * n for n in (1, 100, 50_000)] + ["]" * n for n in (1, 100)] + ["(" * n for n in (1, 100, 50_000)]
    # Chains and very long lines.
    entries += ["C" * n for n in (127, 128, 129, 999, 1_000, 1_001, 10_000, 100_000)] + [
        "C" * 10_000_000,
        "(" * 10_000_000,
    ]
    entries += [" " * 10_000_000, "\x00" * 1_000_000, "C" + " " * 500, " " * 500 + "C"]
    entries += [a * 120 for a in ("[C]", "C=", "C#", "C.", "[H]", "[Na+].", "c", "n", "C1", "*", "[U]", "S(=O)(=O)")]
    # Ring storms.
    entries += [complete_graph(n, a) for n in (4, 5, 6, 7, 9, 11) for a in ("C", "c", "[U]", "[W]", "S", "[C+]")]
    entries += [ladder(n, a) for n in (3, 9, 20, 45, 60) for a in ("C", "c", "n", "[Si]")]
    entries += ["C" + "".join(mark(i) for i in range(1, n)) for n in (10, 99, 200)]
    # Control, zero-width and other characters.
    entries += [f"C{character}C" for character in STRANGE]
    entries += ["\ud800", "C\nC", "C\rC", "C\tC", "C C", "CCO ethanol", "CCO |$R1;;$|", "CC |(0,0,;1,0,)|", "C |a:0|"]
    # Brackets, grammar, chemistry.
    entries += ["[]", *(f"[{inside}]" for inside in BRACKETS.split()), *GRAMMAR.split(), *CHEMISTRY.split()]
    # Known hard cases, whole and in pieces.
    entries += [MONSTER] + [MONSTER[:n] for n in (50, 120, 200, 300, 400)] + [MONSTER + "." + MONSTER]
    entries += ["c1(" + "-c2ccccc2" * 3 + ")ccccc1", "C12C3C4C1C5C2C3C45", "C1C2CC3CC1CC(C2)C3"]
    # Noise: fixed-seed strings over the SMILES alphabet, alone and spliced into a real molecule.
    source = random.Random(20260101)
    alphabet = "CNOPSFIBrclnos[]()=#-+@/\\123456789%.:*H"
    for length in (5, 20, 60, 200, 800):
        entries += ["".join(source.choice(alphabet) for _ in range(length)) for _ in range(6)]
    drug = "CN1CCC[C@H]1c1cccnc1C(=O)Nc1ccc(Cl)cc1"
    for _ in range(20):
        at, n = source.randrange(len(drug)), source.randrange(1, 6)
        entries.append(drug[:at] + "".join(source.choice(alphabet) for _ in range(n)) + drug[at + n :])
    return entries
