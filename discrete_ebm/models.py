"""Models by name: an untrained energy on the space that a data set shows, with what suits it.

The table serves the commands and their config files; in Python the classes of ``de.energies`` are as short.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from discrete_ebm import energies
from discrete_ebm.datasets import Dataset
from discrete_ebm.errors import RegistryError, SettingError, SpaceError
from discrete_ebm.spaces import Binary, Categorical, Ordinal, Product, Spin

__all__ = ["ModelSpec", "create", "names", "needs_completion", "settings_of", "spec"]

_SUMMED = 16  # up to here the hidden units of a Boltzmann machine are summed out


@dataclass(frozen=True)
class ModelSpec:
    """One row: ``build(data, seed, **settings)`` makes the energy.

    ``alphabets``: names of spaces it is for; ``labelled``: it is of states and labels together; ``completed``: the
    energy is of hidden units too, which a training draws for each row; ``suits``: sections of a config that take the
    place of the general defaults, as measured (docs/training_results.md).
    """

    name: str
    build: Callable[..., Any]
    summary: str
    alphabets: tuple[str, ...]
    labelled: bool = False
    completed: bool = False
    suits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def names() -> list[str]:
    """Names of all models, sorted."""
    return sorted(_SPECS)


def spec(name: str) -> ModelSpec:
    """The row of a model; an unknown name suggests the nearest."""
    if name not in _SPECS:
        near = difflib.get_close_matches(str(name), _SPECS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RegistryError(f"Unknown model {name!r}.{hint} Available: {', '.join(names())}.")
    return _SPECS[name]


def settings_of(name: str) -> list[str]:
    """Names of the settings that a model takes."""
    return list(inspect.signature(spec(name).build).parameters)[2:]


def create(name: str, data: Dataset, seed: int = 0, **settings: Any) -> Any:
    """An untrained energy for ``data``, whose training rows set its biases where the model has a way to.

    Raises:
        RegistryError: unknown name. SettingError: a setting that the model does not have, or a value out of range.
        SpaceError: the data are of another alphabet.
    """
    row = spec(name)
    known = settings_of(name)
    unknown = [key for key in settings if key not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingError(f"settings of the model {name!r} must be among {', '.join(known) or 'none at all'}; got "
                           f"{unknown[0]!r}.{hint}")  # fmt: skip
    space = data.space.spaces["visible"] if row.labelled and isinstance(data.space, Product) else data.space
    if space.name not in row.alphabets:
        raise SpaceError(_wrong_alphabet(row, space))
    return row.build(data, seed, **settings)


def _wrong_alphabet(row: ModelSpec, space: Any) -> str:
    values = {"Binary": "0 and 1", "Spin": "−1 and +1", "Categorical": "whole numbers from 0 on",
              "Ordinal": "levels", "Real": "real numbers"}  # fmt: skip
    wanted = " or ".join(f"{values[name]} ({name})" for name in row.alphabets)
    fits = [other.name for other in _SPECS.values() if space.name in other.alphabets and not other.labelled]
    grey = "Binary" in row.alphabets and space.name in ("Categorical", "Real")
    way_out = " Make bits with --threshold." if grey else ""
    return (f"`data` must hold {wanted} for model {row.name!r}; got {space!r}.{way_out} "
            f"Models of such data: {', '.join(sorted(fits))}.")  # fmt: skip


def _log_odds(x: Tensor) -> Tensor:
    """(N,) of the bits of x: Hinton 2012, "A practical guide to training RBMs", section 8.1."""
    return x.double().mean(0).flatten().clamp(0.01, 0.99).logit().float()


def _log_shares(data: Dataset) -> Tensor:
    """(N, K) log frequencies of each site's values, mixed with 2 % of the uniform law; zero-sum over values."""
    index = data.space.to_index(data.train)
    shares = torch.nn.functional.one_hot(index, data.space.k_max).double().mean(0)
    logs = (0.98 * shares + 0.02 / data.space.k_max).log()
    return (logs - logs.mean(1, keepdim=True)).float()


def _rbm(data: Dataset, seed: int, *, hidden: int = 64, scale: float = 0.01) -> Any:
    return energies.BernoulliRBM(data.space.shape, _one(hidden), visible_bias=_log_odds(data.train), scale=scale,
                                 seed=seed)  # fmt: skip


def _categorical_rbm(data: Dataset, seed: int, *, hidden: int = 64, scale: float = 0.01) -> Any:
    return energies.CategoricalRBM(data.space.shape, data.space.k_max, _one(hidden), visible_bias=_log_shares(data),
                                   scale=scale, seed=seed)  # fmt: skip


def _gaussian_rbm(data: Dataset, seed: int, *, hidden: int = 64, scale: float = 0.01) -> Any:
    x = data.train.double().flatten(1)
    variance = x.var(0).clamp(min=1e-6)
    return energies.GaussianBernoulliRBM(data.space.shape, _one(hidden), visible_bias=x.mean(0).float(),
                                         log_variance=variance.log().float(), scale=scale, seed=seed)  # fmt: skip


def _labelled_rbm(data: Dataset, seed: int, *, hidden: int = 64, scale: float = 0.01) -> Any:
    visible = data.space.spaces["visible"]
    return energies.LabelledRBM(visible.shape, data.space.spaces["label"].k_max, _one(hidden), scale=scale, seed=seed,
                                visible_bias=_log_odds(data.train[:, : visible.n_sites]))  # fmt: skip


def _ising(data: Dataset, seed: int, *, graph: str = "dense") -> Any:
    n, space = data.space.n_sites, data.space
    if _graph(graph) == "lattice":
        edges = energies.Ising.lattice(space.shape, 0.0, periodic=False, space=space).edges()
        return energies.Ising.sparse(edges, torch.zeros(edges.shape[1]), n_sites=n, space=space)
    return energies.Ising(torch.zeros(n, n), space=space)


def _potts(data: Dataset, seed: int, *, graph: str = "dense") -> Any:
    space, k = data.space, data.space.k_max
    if _graph(graph) == "lattice":
        edges = energies.Potts.lattice(space.shape, 0.0, k, periodic=False).edges()
        return energies.Potts.sparse(edges, torch.zeros(edges.shape[1]), k, _log_shares(data),
                                     n_sites=space.n_sites, space=space)  # fmt: skip
    return energies.Potts(torch.zeros(space.n_sites, space.n_sites), k, _log_shares(data), space=space)


def _general_potts(data: Dataset, seed: int) -> Any:
    if len(data.space.shape) != 1:
        raise SpaceError(f"`data` must be rows of sites for model 'general-potts'; got {data.space!r}. Flatten them, "
                         "e.g. with --shape.")  # fmt: skip
    return energies.GeneralPotts(data.space.n_sites, data.space.k_max, field=_log_shares(data))


def _factor_graph(data: Dataset, seed: int, *, arity: int = 3) -> Any:
    """A table over each window of ``arity`` neighbours: along a row of sites, or (arity 4) 2×2 patches of an image."""
    space = data.space
    if isinstance(arity, bool) or not isinstance(arity, int) or not 2 <= arity <= 8:
        raise SettingError(f"`arity` must be a whole number from 2 to 8; got {arity!r}. Try 3.")
    sites = torch.arange(space.n_sites).reshape(space.shape)
    if len(space.shape) == 2 and arity == 4:
        scopes = sites.unfold(0, 2, 1).unfold(1, 2, 1).reshape(-1, 4)
    elif len(space.shape) == 2:
        scopes = torch.cat([side.unfold(-1, arity, 1).reshape(-1, arity) for side in (sites, sites.T)
                            if side.shape[-1] >= arity])  # fmt: skip
    else:
        scopes = sites.flatten().unfold(0, arity, 1)
    scopes = scopes.sort(1).values
    return energies.FactorGraph(space, [(scopes, torch.zeros(len(scopes), *[space.k_max] * arity))])


def _boltzmann(data: Dataset, seed: int, *, hidden: int = 12, scale: float = 0.01) -> Any:
    machine = energies.BoltzmannMachine(data.space.shape, _one(hidden), scale=scale, seed=seed)
    return machine.visible_marginal() if _one(hidden) <= _SUMMED else machine


def _deep_boltzmann(data: Dataset, seed: int, *, hidden: Sequence[int] = (64, 32), scale: float = 0.05) -> Any:
    odds = _log_odds(data.train)
    layers = _several(hidden)
    bias = torch.cat([odds, torch.zeros(sum(layers))])
    return energies.DeepBoltzmannMachine(data.space.shape, layers, scale=scale, bias=bias, seed=seed)


def _product_of_experts(data: Dataset, seed: int, *, experts: int = 32, components: int = 2) -> Any:
    return energies.ProductOfExperts(data.space, experts, components, seed=seed)


def _mean_field(data: Dataset, seed: int) -> Any:
    return energies.MeanField.fit(data.space, data.train, trainable=True)


def _mlp(data: Dataset, seed: int, *, hidden: int | Sequence[int] = 64, base: str = "auto") -> Any:
    widths = _several(hidden)
    return _on_base(energies.MLPEnergy(data.space, widths * 2 if len(widths) == 1 else widths, seed=seed), data, base)


def _resnet(data: Dataset, seed: int, *, channels: int = 64, blocks: int = 6, down: int = 2, base: str = "auto") -> Any:
    network = energies.ResNetEnergy(data.space, channels, n_blocks=blocks, n_down=down, seed=seed)
    return _on_base(network, data, base)


def _jem(data: Dataset, seed: int, *, hidden: int | Sequence[int] = (256, 256), channels: Sequence[int] = (),
         blocks: int = 0) -> Any:  # fmt: skip
    labels = data.labels.get("train")
    if labels is None or not len(labels):
        raise SpaceError(f"`data` must have labels for model 'jem'; got {data!r} without. Name them with --set "
                         "data.label=NAME, or train 'mlp' or 'resnet'.")  # fmt: skip
    n_classes = max(2, len(data.classes), int(labels.max()) + 1)
    widths = [] if not isinstance(hidden, int) and not len(hidden) else _several(hidden)
    network = energies.ImageClassifier(data.space, n_classes, widths, channels=_several(channels) if channels else (),
                                       blocks=blocks, seed=seed)  # fmt: skip
    return energies.ClassifierEnergy(network, data.space, n_classes)


def _transformer(data: Dataset, seed: int, *, width: int = 64, layers: int = 2, heads: int = 4,
                 base: str = "auto") -> Any:  # fmt: skip
    return _on_base(energies.TransformerEnergy(data.space, width, layers, heads, seed=seed), data, base)


def _on_base(network: Any, data: Dataset, base: str) -> Any:
    """The network on the marginals of the data, which it then need not learn; "auto" = where sites have values."""
    if base not in ("auto", "mean-field", "none"):
        raise SettingError(f"`base` must be 'auto', 'mean-field' or 'none'; got {base!r}.")
    fits = isinstance(data.space, (Binary, Spin, Ordinal, Categorical))
    if base == "mean-field" and not fits:
        raise SpaceError(f"`base` must be 'none' on {data.space!r}, which has no values to count.")
    return network + energies.MeanField.fit(data.space, data.train) if base != "none" and fits else network


def _graph(graph: str) -> str:
    if graph not in ("dense", "lattice"):
        raise SettingError(f"`graph` must be 'dense' or 'lattice'; got {graph!r}.")
    return graph


def _one(hidden: Any) -> int:
    sizes = _several(hidden)
    if len(sizes) != 1:
        raise SettingError(f"`hidden` must be one number for this model; got {hidden!r}. Several are for "
                           "deep-boltzmann and mlp.")  # fmt: skip
    return sizes[0]


def _several(hidden: Any) -> list[int]:
    sizes = [hidden] if isinstance(hidden, int) else list(hidden) if isinstance(hidden, (list, tuple)) else []
    if not sizes or any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in sizes):
        raise SettingError(f"`hidden` must be a whole number or a list of them; got {hidden!r}. Try 64.")
    return sizes


def needs_completion(name: str, settings: dict[str, Any]) -> bool:
    """Whether the energy is of hidden units too, which must be drawn for each row."""
    if name == "boltzmann":
        return _one(settings.get("hidden", 12)) > _SUMMED
    return spec(name).completed


_BITS, _VALUES = ("Binary",), ("Binary", "Spin", "Categorical", "Ordinal")
_CENTRED: dict[str, dict[str, Any]] = {"objective": {"centre": "data"}, "training": {"optimizer": "sgd", "lr": 0.2}}
_FEW_FLIPS: dict[str, dict[str, Any]] = {"objective": {"name": "pseudo-likelihood", "sites": 8},
                                         "training": {"lr": 0.001}}  # fmt: skip
_SPECS = {row.name: row for row in (
    ModelSpec("rbm", _rbm, "restricted Boltzmann machine of bits", _BITS, suits=_CENTRED),
    ModelSpec("categorical-rbm", _categorical_rbm, "RBM of softmax units", ("Categorical",)),
    ModelSpec("gaussian-rbm", _gaussian_rbm, "RBM of reals, with learnable variances", ("Real",)),
    ModelSpec("labelled-rbm", _labelled_rbm, "RBM of bits and a label: classifies and generates", _BITS, labelled=True),
    ModelSpec("ising", _ising, "pairwise couplings of bits or spins, all pairs or a lattice", ("Spin", "Binary")),
    ModelSpec("potts", _potts, "one coupling a pair, rewarding equal values", ("Categorical",)),
    ModelSpec("general-potts", _general_potts, "a K by K table a pair: alignments, contacts", ("Categorical",)),
    ModelSpec("factor-graph", _factor_graph, "tables over windows of sites or patches of pixels", _VALUES),
    ModelSpec("boltzmann", _boltzmann, "all pairs of bits and hidden units", _BITS),
    ModelSpec("deep-boltzmann", _deep_boltzmann, "layers of hidden units", _BITS, completed=True),
    ModelSpec("product-of-experts", _product_of_experts, "a product of mixtures of independent sites", _VALUES),
    ModelSpec("mean-field", _mean_field, "independent sites: the baseline", _VALUES),
    ModelSpec("mlp", _mlp, "a perceptron on the marginals of the data", (*_VALUES, "Real"), suits=_FEW_FLIPS),
    ModelSpec("resnet", _resnet, "ResNet-64 on the marginals of the data, for images", (*_VALUES, "Real")),
    ModelSpec("jem", _jem, "a classifier that is a density too; pixels become reals", (*_VALUES, "Real")),
    ModelSpec("transformer", _transformer, "attention over sites, on the marginals of the data", _VALUES),
)}  # fmt: skip
