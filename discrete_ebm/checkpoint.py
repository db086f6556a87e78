"""Save and load models: one safetensors file that holds the tensors, the configuration and a digest of both.

A file appears whole or not at all (temporary file, fsync, rename, fsync of the folder), damage is noticed on loading,
and loading cannot run code: there is no pickle, and a class is only built if it was registered by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from discrete_ebm import energies, spaces
from discrete_ebm.errors import CheckpointError, CorruptCheckpointError, EBMError

__all__ = [
    "atomic_file",
    "build_space",
    "describe_space",
    "energy_bytes",
    "load",
    "load_tensors",
    "make_folder",
    "plain",
    "register_energy",
    "save",
    "save_tensors",
    "sync_folder",
    "tensor_bytes",
    "versions",
    "write_text",
]

SCHEMA = 1
_CUSTOM = "custom"  # an energy whose class is not registered: only its tensors are stored


# -- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; when the block ends well it replaces ``path``, otherwise it is removed.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written; an older ``path`` is intact.
    """
    path = Path(path)
    handle, name = -1, ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        size = temporary.stat().st_size
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as cause:
        size = Path(name).stat().st_size if name and Path(name).exists() else 0
        _remove(name)
        raise CheckpointError(
            f"`{path}` must be writable; got {cause.strerror or cause} after {size} bytes. Free some "
            "space or choose another folder; an older file of that name is intact."
        ) from cause
    except BaseException:
        _remove(name)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _remove(name: str) -> None:
    if name:
        Path(name).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power loss; not every platform lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents; :class:`CheckpointError` says why it cannot."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise CheckpointError(
            f"`output` must be a folder that can be created; got {folder} ({cause.strerror or cause}). Choose another."
        ) from cause
    return folder


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """What a run was made with."""
    from discrete_ebm import __version__

    return {"discrete_ebm": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


# -- tensors --------------------------------------------------------------------------------------------------------


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, config: Mapping[str, Any]) -> None:
    """Write tensors with a JSON-able ``config`` to a safetensors file; shared memory is stored once per name."""
    content = tensor_bytes(tensors, config)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def tensor_bytes(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> bytes:
    """The contents of the file that :func:`save_tensors` writes."""
    copies = {name: plain(tensor) for name, tensor in tensors.items()}
    text = json.dumps({"schema": SCHEMA, **config}, sort_keys=True)
    return to_bytes(copies, metadata={"config": text, "sha256": _digest(copies, text)})


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``(tensors, config)`` on the CPU, checked against the digest.

    Raises:
        CheckpointError: no such file, not one of ours, or from a newer version.
        CorruptCheckpointError: it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"`path` must be a saved model; got {path}, which is not a file. Check the name.")
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError) as cause:
        raise CorruptCheckpointError(
            f"`path` must be a whole safetensors file; got {path}, {path.stat().st_size} bytes that "
            f"cannot be read ({_first_line(cause)}). Use an older copy."
        ) from cause
    text = metadata.get("config")
    if text is None or "sha256" not in metadata:
        raise CheckpointError(
            f"`path` must be written by discrete_ebm; got {path}, a safetensors file without its "
            "configuration. Load it with safetensors and energy.load_state_dict."
        )
    if _digest(tensors, text) != metadata["sha256"]:
        raise CorruptCheckpointError(
            f"`path` must be undamaged; got {path}, whose contents do not match their digest. Use an older copy."
        )
    try:  # a digest says that nothing has changed, not that it made sense to begin with
        config = json.loads(text)
        newer = config.get("schema", 0) > SCHEMA
    except (ValueError, TypeError, AttributeError, RecursionError) as cause:
        raise CheckpointError(
            f"`path` must hold a model's configuration; got {path} ({_first_line(cause)}). Use an older copy."
        ) from cause
    if newer:
        raise CheckpointError(
            f"`path` must be of schema {SCHEMA} or older; got {config['schema']} in {path}. Upgrade discrete-ebm."
        )
    return tensors, config


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(plain(tensor).reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def plain(tensor: Tensor) -> Tensor:
    """A copy on the CPU in row-major order, also where an expanded tensor calls itself contiguous."""
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _first_line(cause: BaseException) -> str:
    return (str(cause).splitlines() or [type(cause).__name__])[0]


# -- energies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Codec:
    kind: type[nn.Module]
    describe: Callable[[Any], dict[str, Any]]
    build: Callable[[dict[str, Any], dict[str, Tensor]], nn.Module]


_CODECS: dict[str, _Codec] = {}


def register_energy(
    kind: type[nn.Module],
    describe: Callable[[Any], dict[str, Any]],
    build: Callable[[dict[str, Any], dict[str, Tensor]], nn.Module],
) -> None:
    """Make a class savable: ``describe(energy)`` is JSON-able, ``build(description, tensors)`` makes an empty one.

    ``tensors`` is the saved state dict, for sizes and dtypes; it is loaded into the result afterwards.
    """
    name = _name(kind)
    if name in _CODECS:
        raise CheckpointError(f"`kind` must not be registered yet; got {name!r} again. Rename the class.")
    _CODECS[name] = _Codec(kind, describe, build)


def _name(kind: type) -> str:
    """A class's name in files; classes of other packages carry the package's, for two may use one name."""
    package = kind.__module__.split(".")[0]
    return kind.__name__ if package == "discrete_ebm" else f"{package}.{kind.__name__}"


def save(energy: nn.Module, path: str | Path) -> None:
    """Write an energy to ``path`` (a safetensors file).

    An energy of a class that is not registered is stored without a recipe: load it into an object you made yourself.
    """
    save_tensors(energy.state_dict(), path, {"energy": _describe(energy)})


def energy_bytes(energy: nn.Module, tensors: Mapping[str, Tensor]) -> bytes:
    """The contents of the file that :func:`save` would write, with a state dict taken earlier."""
    return tensor_bytes(tensors, {"energy": _describe(energy)})


def load(path: str | Path, energy: nn.Module | None = None, device: str | torch.device = "cpu") -> Any:
    """The energy that :func:`save` wrote; a run folder stands for its averaged energy, or else its energy.

    Args:
        path: a file, the ``output`` folder of a training (of one that was killed: its newest checkpoint), or the folder
            of one checkpoint.
        energy: an object to load the tensors into, needed for classes that are not registered.
        device: where to put it.
    Raises:
        CheckpointError: missing, damaged, or the tensors do not fit.
    """
    path = Path(path)
    if path.is_dir():
        found = [file for file in _model_files(path) if file.is_file()]
        if not found:
            raise CheckpointError(
                f"`path` must be a saved model or a training's folder; got {path}, which holds neither "
                "ema.safetensors nor energy.safetensors. Check the name."
            )
        path = found[0]
    tensors, config = load_tensors(path)
    try:
        built = _build(config["energy"], tensors) if energy is None else energy
        built.load_state_dict(tensors)
        _set_temperature(built, config["energy"])
    except CheckpointError:
        raise
    except (EBMError, RuntimeError, LookupError, ArithmeticError, TypeError, ValueError, AttributeError, StopIteration,
            MemoryError) as cause:  # fmt: skip
        raise CheckpointError(
            f"`path` must fit the energy it is loaded into; got {path} ({_first_line(cause)}). "
            "Check the class and its sizes."
        ) from cause
    return built.to(device)


def _model_files(folder: Path) -> Iterator[Path]:
    """Where a folder may keep its model, in order of preference."""
    yield from (folder / name for name in ("ema.safetensors", "energy.safetensors"))
    if (folder / "MANIFEST.json").is_file():
        yield folder / "model.safetensors"
    latest = folder / "checkpoints" / "latest"
    if latest.is_file():
        newest = latest.parent / Path(latest.read_text(encoding="utf-8", errors="replace").strip()).name
        yield from (newest / name for name in ("ema.safetensors", "model.safetensors"))


def _describe(energy: nn.Module) -> dict[str, Any]:
    name = _name(type(energy))
    codec = _CODECS.get(name)
    temperature = getattr(energy, "implied_temperature", None)  # of the sampler that it was trained with
    known = {} if temperature is None else {"implied_temperature": float(temperature)}
    if codec is None or type(energy) is not codec.kind:
        return {"type": _CUSTOM, "class": type(energy).__name__, **known}
    return {"type": name, **codec.describe(energy), **known}


def _set_temperature(energy: nn.Module, config: Mapping[str, Any]) -> None:
    """What an energy was trained at, where the file says so."""
    if "implied_temperature" in config:
        energy.implied_temperature = float(config["implied_temperature"])  # type: ignore[assignment]


def _build(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    if config["type"] == _CUSTOM:
        raise CheckpointError(
            f"`energy` must be given for a model of your own class {config['class']!r}; got None. "
            "Use checkpoint.load(path, energy=YourEnergy(...))."
        )
    name = config["type"]
    if name not in _CODECS:  # files written before names carried their package
        name = next((known for known in _CODECS if known.endswith(f".{name}")), name)
    if name not in _CODECS:
        raise CheckpointError(
            f"`path` must hold a known energy; got {config['type']!r}. Import the package that defines it."
        )
    return _CODECS[name].build(config, tensors)


def describe_space(space: Any) -> dict[str, Any]:
    """A JSON-able description of a space of this package; others belong to their energy's own description."""
    base = {"type": type(space).__name__, "shape": list(space.shape)}
    if isinstance(space, (spaces.Binary, spaces.Spin)):
        return base
    if isinstance(space, spaces.Categorical):
        return {**base, "k": space.n_values.tolist()}
    if isinstance(space, spaces.Ordinal):
        return {**base, "values": space.values.tolist()}
    if isinstance(space, spaces.Real):
        return {
            **base,
            "low": None if space.low is None else space.low.tolist(),
            "high": None if space.high is None else space.high.tolist(),
        }
    if isinstance(space, spaces.Product):
        return {"type": "Product", "members": {name: describe_space(member) for name, member in space.spaces.items()}}
    raise CheckpointError(
        f"`space` must be one of discrete_ebm.spaces to be saved; got {space!r}. "
        "Register the energy with its own description."
    )


def build_space(config: Mapping[str, Any]) -> Any:
    """The space that :func:`describe_space` described."""
    kind: str = config["type"]
    shape: Any = config.get("shape")
    if kind in ("Binary", "Spin"):
        return getattr(spaces, kind)(shape)
    if kind == "Categorical":
        return spaces.Categorical(shape, config["k"][0] if len(set(config["k"])) == 1 else config["k"])
    if kind == "Ordinal":
        return spaces.Ordinal(shape, config["values"])
    if kind == "Real":
        bounds = {
            name: None if config[name] is None else torch.tensor(config[name], dtype=torch.float64)
            for name in ("low", "high")
        }
        return spaces.Real(shape, **bounds)
    if kind == "Product":
        return spaces.Product({name: build_space(member) for name, member in config["members"].items()})
    raise CheckpointError(f"`space` must be one of discrete_ebm.spaces; got {kind!r}. Upgrade discrete-ebm.")


def _describe_pairs(energy: Any) -> dict[str, Any]:
    lattice = energy._lattice
    form = "lattice" if lattice else "dense" if energy.edge_index is None else "sparse"
    return {
        "space": describe_space(energy.space),
        "form": form,
        "lattice": [list(lattice[0]), lattice[1]] if lattice else None,
        "n_edges": energy.coupling.numel(),
    }


def _build_pairs(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    space, empty = build_space(config["space"]), torch.zeros_like(tensors["coupling"])
    kind: Any = energies.Ising if config["type"] == "Ising" else energies.Potts
    k = [] if config["type"] == "Ising" else [space.k_max]
    if config["form"] == "dense":
        return kind(empty, *k, space=space)
    if config["form"] == "sparse":
        return kind.sparse(tensors["edge_index"], empty, *k, space=space)
    shape, periodic = config["lattice"]
    if config["type"] == "Ising":
        return energies.Ising.lattice(shape, empty, periodic=periodic, space=space)
    return energies.Potts.lattice(shape, empty, space.k_max, periodic=periodic)


def _build_rbm(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    weight = torch.zeros_like(tensors["weight"])
    return energies.BernoulliRBM(config["n_visible"], weight.shape[1], weight=weight)


_ACTIVATIONS = ("SiLU", "GELU", "ELU", "Softplus", "Tanh", "ReLU", "Mish", "Sigmoid")


def _describe_mlp(energy: Any) -> dict[str, Any]:
    layers = list(energy.network)
    names = {type(layer).__name__ for layer in layers if not isinstance(layer, nn.Linear)}
    if len(names) > 1 or not names <= set(_ACTIVATIONS):
        return {"type": _CUSTOM, "class": type(energy).__name__}
    return {
        "space": describe_space(energy.space),
        "activation": next(iter(names), "SiLU"),
        "confine": energy.confine,
        "hidden": [layer.out_features for layer in layers if isinstance(layer, nn.Linear)][:-1],
    }


def _build_mlp(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    if config["activation"] not in _ACTIVATIONS:
        raise CheckpointError(f"`activation` must be one of {', '.join(_ACTIVATIONS)}; got {config['activation']!r}.")
    made = energies.MLPEnergy(
        build_space(config["space"]),
        config["hidden"],
        confine=config["confine"],
        activation=getattr(nn, config["activation"]),
    )
    return made.to(next(iter(tensors.values())).dtype)


def _describe_members(energy: Any) -> dict[str, Any]:
    members = [_describe(member) for member in energy.members]
    if any(member["type"] == _CUSTOM for member in members):
        return {"type": _CUSTOM, "class": type(energy).__name__}
    if isinstance(energy, energies.Exclusion):
        return {"members": members, "strength": energy.strength, "level": energy.level}
    if isinstance(energy, energies.Mixture):
        return {"members": members, "log_weights": list(energy.log_weights), "temperatures": list(energy.temperatures)}
    return {"members": members, "weights": list(energy.weights)}


def _build_members(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    def part(i: int) -> dict[str, Tensor]:
        prefix = f"members.{i}."
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    members = [_build(member, part(i)) for i, member in enumerate(config["members"])]
    if config["type"] == "Exclusion":
        return energies.Exclusion(members[0], members[1], config["strength"], config["level"])
    if "log_weights" in config:
        return energies.Mixture(members, temperatures=config["temperatures"], log_weights=config["log_weights"])
    kind: Any = energies.SumEnergy if config["type"] == "SumEnergy" else energies.Mixture
    return kind(members, config["weights"])


register_energy(energies.Ising, _describe_pairs, _build_pairs)
register_energy(energies.Potts, _describe_pairs, _build_pairs)
register_energy(energies.BernoulliRBM, lambda energy: {"n_visible": list(energy.space.shape)}, _build_rbm)
register_energy(energies.MLPEnergy, _describe_mlp, _build_mlp)
register_energy(energies.SumEnergy, _describe_members, _build_members)
register_energy(energies.Mixture, _describe_members, _build_members)
register_energy(energies.Exclusion, _describe_members, _build_members)

# Imported last, because it registers with the functions above.
from discrete_ebm import checkpoint_models  # noqa: E402, F401
