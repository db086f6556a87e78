"""Fréchet ChemNet Distance (FCD) through the optional package ``fcd_torch``.

Two sets of molecules, ChemNet activations (512 numbers a molecule) as two Gaussians, and the Fréchet distance between
them: d^2 = |mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)); by custom d^2 itself is called "the FCD".

The value falls with the number of samples even for a perfect generator. Measured floor against the ZINC250k test part
(training molecules as samples): n = 500: 3.18, 1,000: 1.51, 2,000: 0.78, 5,000: 0.34, 10,000: 0.20. So n is part of
every result, and under 5,000 samples a warning is.

Molecules are written without stereo; compare with a reference that has none either (published values often do not).

Source: Preuer et al. 2018, arXiv:1803.09518; weights in the MIT-licensed package fcd_torch.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from discrete_ebm.errors import CapabilityError, DataError, MoleculeError, SettingError
from graph_ebm.metrics.validity import CheckedSamples, Sample, check_samples

MIN_SAMPLES = 5_000
_LENGTH = 350  # ChemNet reads 350 characters; longer SMILES are cut, as in both published implementations
_INSTALL = "The Fréchet ChemNet Distance needs the package fcd_torch. Install it: pip install 'discrete-ebm[eval]'."


class SmallSampleWarning(UserWarning):
    """A distance was computed from so few samples that its bias matters."""


@dataclass(frozen=True)
class Statistics:
    """ChemNet activations of ``n`` molecules: ``mu`` (512,) and ``sigma`` (512, 512), both float64."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int

    def save(self, path: str | Path) -> None:
        """Write as .npz with the arrays mu, sigma and n."""
        np.savez_compressed(path, mu=self.mu, sigma=self.sigma, n=np.int64(self.n))


@dataclass(frozen=True)
class FCD:
    """One distance and what it was computed from.

    Attributes:
        value: the Fréchet ChemNet Distance (squared form, as published).
        n: valid samples used. n_rejected: samples left out because they are not molecules.
        n_reference: molecules behind the reference statistics; None where the file does not say.
        caveat: a sentence about small-sample bias, or an empty string.
    """

    value: float
    n: int
    n_rejected: int
    n_reference: int | None
    caveat: str = ""

    def __float__(self) -> float:
        return self.value


def available() -> bool:
    """Whether fcd_torch can be imported."""
    try:
        import fcd_torch  # noqa: F401
    except ImportError:
        return False
    return True


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians.

    Tr (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric and
    positive: no complex parts and no jitter, also for singular covariances.

    Args:
        mu1, mu2: (d,) means. sigma1, sigma2: (d, d) covariances.

    Raises:
        SettingError: shapes differ or a value is not finite.
    """
    mu1, mu2 = np.atleast_1d(np.asarray(mu1, np.float64)), np.atleast_1d(np.asarray(mu2, np.float64))
    sigma1, sigma2 = np.atleast_2d(np.asarray(sigma1, np.float64)), np.atleast_2d(np.asarray(sigma2, np.float64))
    d = len(mu1)
    if mu2.shape != (d,) or sigma1.shape != (d, d) or sigma2.shape != (d, d):
        raise SettingError(
            "the statistics must be two means (d,) and two covariances (d, d) of one size; got shapes "
            f"{mu1.shape}, {sigma1.shape}, {mu2.shape}, {sigma2.shape}. Compute both with the same network."
        )
    if not all(np.isfinite(a).all() for a in (mu1, mu2, sigma1, sigma2)):
        raise SettingError("the statistics must be finite; got NaN or infinity. Use at least two molecules.")
    values, vectors = np.linalg.eigh(sigma1)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    inner = root @ sigma2 @ root
    trace_root = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0.0, None)).sum()
    difference = mu1 - mu2
    return float(difference @ difference + np.trace(sigma1) + np.trace(sigma2) - 2.0 * trace_root)


def load_statistics(path: str | Path) -> Statistics:
    """Read reference statistics from an .npz with ``mu``, ``sigma`` and, if there, ``n``.

    Raises:
        DataError: the file is missing, is no .npz or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mu, sigma = arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64)
            n = int(arrays["n"]) if "n" in arrays else 0
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"the reference statistics must be an .npz file with `mu` and `sigma`; got {path} ({error}). "
            "Make one with `graph_ebm.fcd.statistics(smiles).save(path)`."
        ) from error
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise DataError(f"`mu` must be (d,) and `sigma` (d, d); got {mu.shape} and {sigma.shape} in {path}.")
    return Statistics(mu, sigma, n)


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 4) if n is None else n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _network(device: str | torch.device) -> torch.nn.Module:
    try:
        import fcd_torch
    except ImportError as error:
        raise CapabilityError(_INSTALL) from error
    return fcd_torch.FCD(device=device).model.to(device).eval()


def _one_hot(smiles: Sequence[str]) -> torch.Tensor:
    """ChemNet's input, (B, 35, 350) float32."""
    from fcd_torch.utils import get_one_hot

    return torch.from_numpy(np.stack([get_one_hot(s, _LENGTH) for s in smiles])).float().transpose(1, 2) / 35.0


def activations(
    smiles: Sequence[str], *, device: str | torch.device = "cpu", batch_size: int = 256, threads: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """ChemNet activations of checked SMILES: (n, 512) float32. About 150 to 300 molecules a second and CPU core."""
    if not smiles:
        return np.zeros((0, 512), dtype=np.float32)
    from tqdm import tqdm

    network = _network(device)
    out = np.empty((len(smiles), 512), dtype=np.float32)
    with _threads(threads), torch.no_grad():
        for i in tqdm(range(0, len(smiles), batch_size), desc="ChemNet", disable=not progress, unit="batch"):
            batch = smiles[i : i + batch_size]
            out[i : i + len(batch)] = network(_one_hot(batch).to(device)).cpu().numpy()
    return out


def statistics(
    samples: Iterable[Sample] | CheckedSamples, *, device: str | torch.device = "cpu", batch_size: int = 256,
    threads: int | None = None, progress: bool = False,
) -> Statistics:
    """Mean and covariance of the ChemNet activations of the valid samples (repeats count as often as they occur).

    Args:
        samples: SMILES, RDKit molecules or None; written without stereo, as canonical SMILES.
        device: where ChemNet runs. batch_size: molecules in one pass. threads: CPU threads; None uses at most 4.

    Raises:
        MoleculeError: fewer than two valid molecules.
        CapabilityError: fcd_torch is missing.
    """
    counts = Counter(check_samples(samples).valid)
    n = sum(counts.values())
    if n < 2:
        raise MoleculeError(f"the Fréchet ChemNet Distance needs at least 2 valid molecules; got {n}. Draw more.")
    unique = list(counts)  # a repeated molecule passes the network once
    found = activations(unique, device=device, batch_size=batch_size, threads=threads, progress=progress)
    weights = np.array([counts[s] for s in unique], dtype=np.float64)
    x = found.astype(np.float64)
    mu = weights @ x / n
    centred = x - mu
    sigma = (centred * weights[:, None]).T @ centred / (n - 1)
    return Statistics(mu, sigma, n)


def fcd(
    samples: Iterable[Sample] | CheckedSamples,
    reference: Statistics | str | Path | Iterable[Sample] | CheckedSamples,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    threads: int | None = None,
    progress: bool = False,
) -> FCD:
    """Fréchet ChemNet Distance of samples to a reference.

    Args:
        samples: SMILES, RDKit molecules or None; those that are not valid molecules are left out and counted.
        reference: ``Statistics``, the path of an .npz with mu and sigma, or molecules.
        device, batch_size, threads, progress: as in :func:`statistics`.

    Returns:
        FCD: ``.value`` (float(result) too) with the numbers of molecules behind it.

    Raises:
        CapabilityError: fcd_torch is missing; the sentence says how to install it.
        MoleculeError: fewer than two valid molecules on a side.
        DataError: the reference file cannot be used.

    Warns:
        SmallSampleWarning: under 5,000 samples, where the small-sample bias is larger than differences that matter.
    """
    if not available():
        raise CapabilityError(_INSTALL)
    settings: dict[str, Any] = {"device": device, "batch_size": batch_size, "threads": threads, "progress": progress}
    if isinstance(reference, (str, Path)):
        reference = load_statistics(reference)
    checked = check_samples(samples)
    found = statistics(checked, **settings)
    known = reference if isinstance(reference, Statistics) else statistics(reference, **settings)
    value = frechet_distance(found.mu, found.sigma, known.mu, known.sigma)
    caveat = ""
    if found.n < MIN_SAMPLES:
        caveat = (
            f"The FCD of {found.n:,} samples is biased upwards; a perfect generator would score about 3.2 with 500, "
            f"1.5 with 1,000 and 0.3 with 5,000 drug-like samples. Use at least {MIN_SAMPLES:,}."
        )
        warnings.warn(caveat, SmallSampleWarning, stacklevel=2)
    return FCD(value, found.n, checked.n - checked.n_valid, known.n or None, caveat)
