"""Drawings for reports, as inline SVG texts: molecules here, charts in :mod:`discrete_ebm.report_charts`."""

from __future__ import annotations

import re
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from discrete_ebm.errors import MoleculeError
from discrete_ebm.report_charts import curves_svg, distribution_svg, shares_svg

__all__ = ["curves_svg", "distribution_svg", "molecule_svg", "shares_svg"]


def molecule_svg(smiles: str, *, width: int = 260, height: int = 190, highlight: str | None = None) -> str:
    """One molecule as an <svg> element without background.

    Args:
        smiles: a valid SMILES. width, height: drawing area in pixels.
        highlight: SMARTS whose first match is shaded (a kept substructure).

    Raises:
        MoleculeError: ``smiles`` cannot be parsed.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or mol.GetNumAtoms() == 0:
            raise MoleculeError(f"`smiles` must be a valid molecule; got {smiles!r}. Check it with `check_samples`.")
        rdDepictor.Compute2DCoords(mol)
        rdDepictor.StraightenDepiction(mol)
        pattern = Chem.MolFromSmarts(highlight) if highlight else None
        atoms = list(mol.GetSubstructMatch(pattern)) if pattern is not None else []
        inside = set(atoms)
        bonds = [b.GetIdx() for b in mol.GetBonds() if b.GetBeginAtomIdx() in inside and b.GetEndAtomIdx() in inside]
        drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
        options: Any = drawer.drawOptions()
        options.clearBackground = False
        options.fixedBondLength = 24
        options.bondLineWidth = 1.4
        options.maxFontSize = 14
        options.minFontSize = 7
        options.padding = 0.04
        options.setHighlightColour((0.96, 0.77, 0.33, 0.45))
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol, highlightAtoms=atoms, highlightBonds=bonds)
        drawer.FinishDrawing()
        text = drawer.GetDrawingText()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"\sclass='[^']*'", "", text)  # atom and bond classes: half the bytes, not used
    head, rest = text.split(">", 1)
    head = re.sub(r"\s(width|height)='[^']*'", "", head)
    return f"{head} role='img' aria-label='molecule'>{rest}".strip()
