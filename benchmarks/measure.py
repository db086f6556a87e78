"""What is measured of a list of samples: the same figures for a model, a null model and a peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import graph_ebm as ge
from graph_ebm import fcd as fcd_module
from graph_ebm import metrics, properties
from graph_ebm.metrics import check_sample, distributions, similarity
from graph_ebm.space import MolecularSpace

COMPARED = 2_000  # samples in comparisons of fingerprints


class FCDMeter:
    """Fréchet ChemNet Distances to one reference; each distinct molecule passes the network once."""

    def __init__(self, reference: fcd_module.Statistics | Sequence[str], threads: int = 1) -> None:
        self.threads = threads
        self._rows: dict[str, np.ndarray] = {}
        self.reference = reference if isinstance(reference, fcd_module.Statistics) else self.statistics(reference)

    @classmethod
    def from_file(cls, path: Path, threads: int = 1) -> FCDMeter:
        return cls(fcd_module.load_statistics(path), threads)

    def statistics(self, smiles: Sequence[str]) -> fcd_module.Statistics:
        """Mean and covariance over valid SMILES, repeats counted as often as they occur."""
        counts = Counter(smiles)
        new = [s for s in counts if s not in self._rows]
        self._rows.update(zip(new, fcd_module.activations(new, threads=self.threads), strict=True))
        x = np.stack([self._rows[s] for s in counts]).astype(np.float64)
        weights = np.array([float(c) for c in counts.values()])
        n = int(weights.sum())
        mu = weights @ x / n
        centred = x - mu
        return fcd_module.Statistics(mu, (centred * weights[:, None]).T @ centred / max(1, n - 1), n)

    def __call__(self, smiles: Sequence[str]) -> float | None:
        """The distance; None for fewer than two molecules."""
        if len(smiles) < 2:
            return None
        own, other = self.statistics(smiles), self.reference
        return fcd_module.frechet_distance(own.mu, own.sigma, other.mu, other.sigma)


def checked(smiles: Iterable[str | None]) -> list[str | None]:
    """Canonical SMILES of each sample, None for one that is invalid or in pieces; each distinct text is read once."""
    verdict: dict[str | None, str | None] = {}
    out = []
    for text in smiles:
        if text not in verdict:
            verdict[text] = check_sample(text)[0]
        out.append(verdict[text])
    return out


def smiles_of(x: Tensor, space: MolecularSpace) -> list[str | None]:
    """SMILES of states as a reader who does not trust them sees them: None where the state is no molecule."""
    return checked(ge.to_smiles(x.cpu(), space.vocabulary, on_invalid="none"))


class Judge:
    """Figures of samples against fixed sets.

    Args:
        training: canonical SMILES that a model has seen. reference: molecules whose histograms are the aim.
        known: all molecules of the data's world, for the share of known samples. fcd: a meter, or None.
    """

    def __init__(
        self,
        training: Sequence[str],
        reference: Sequence[str],
        known: set[str] | None = None,
        fcd: FCDMeter | None = None,
    ) -> None:
        self.training, self.known, self.fcd = set(training), known, fcd
        self.reference = distributions.histograms(reference)
        self.fingerprints = similarity.fingerprints(_spread(sorted(self.training), 10 * COMPARED))

    def __call__(self, samples: Sequence[str | None]) -> dict[str, Any]:
        """All figures; shares are over all samples unless the name says otherwise."""
        n = len(samples)
        valid = [s for s in samples if s is not None]
        unique = list(dict.fromkeys(valid))
        found = distributions.histograms(valid)
        bits = similarity.fingerprints(_spread(valid, COMPARED))
        rings = Counter({int(k.rstrip("+")): v for k, v in found["rings"].items()})
        sizes = {int(k): v for k, v in found["size"].items()}
        many = max(1, len(valid))
        figures: dict[str, Any] = {
            "n": n,
            "valid_connected": len(valid) / n,
            "unique": len(unique) / n,
            "novel_of_distinct": sum(s not in self.training for s in unique) / max(1, len(unique)),
            "novel": sum(s not in self.training for s in valid) / n,
            "known": None if self.known is None else sum(s in self.known for s in valid) / n,
            "fcd": None if self.fcd is None else self.fcd(valid),
            **{f"tv_{name}": metrics.total_variation(found[name], self.reference[name]) for name in metrics.HISTOGRAMS},
            "mean_heavy_atoms": sum(k * v for k, v in sizes.items()) / many,
            "mean_rings": sum(rings.values()) / many,
            "rings_per_molecule": {str(k): rings[k] / many for k in sorted(rings)},
            "aromatic_bonds": metrics.shares(found["bonds"]).get("aromatic", 0.0),
            "internal_diversity": similarity.internal_diversity(bits),
            "similarity_to_training": similarity.nearest_neighbour_similarity(bits, self.fingerprints),
        }
        return figures


def property_values(samples: Sequence[str | None], names: Sequence[str]) -> dict[str, np.ndarray]:
    """{name: (n,) float64}, NaN for invalid samples; each distinct molecule is valued once."""
    unique = [s for s in dict.fromkeys(samples) if s is not None]
    values, _ = properties.compute(list(names), unique)
    row = {s: i for i, s in enumerate(unique)}
    index = np.array([row.get(s, -1) if s is not None else -1 for s in samples])
    return {name: np.where(index < 0, np.nan, np.append(column, np.nan)[index]) for name, column in values.items()}


def _spread(items: Sequence[str], limit: int) -> list[str]:
    """At most ``limit`` items, evenly spaced."""
    if len(items) <= limit:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).astype(int)]
