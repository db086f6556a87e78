"""The settings of a training: TOML files, options over them, unknown keys refused, and the whole written down again.

Sections: ``[model] name`` and its settings; ``[data] source`` and options; ``[objective] name`` and settings;
``[sampler] name`` and settings; ``[training]``, ``[log]``, ``[validation]``. What a file does not say has a default.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from discrete_ebm import models, objectives, samplers
from discrete_ebm.datasets import catalogue
from discrete_ebm.errors import SettingError
from discrete_ebm.judge import METHODS

__all__ = ["DEFAULTS", "check", "defaults", "dumps", "packaged", "read", "resolve", "setting"]

Config = dict[str, dict[str, Any]]

DEFAULTS: Config = {  # None: left to whoever uses it, and not written down
    "model": {"name": None},
    "data": {"source": "digits", "folder": None, "rows": None},
    "objective": {"name": "pcd"},
    "sampler": {"name": "auto"},
    "training": {
        "iterations": 2000, "batch_size": 100, "lr": 0.01, "optimizer": "adam", "weight_decay": 0.0, "warmup": None,
        "decay": "linear", "decay_end": 0.0, "decay_at": [0.5, 0.75], "decay_factor": 0.1, "clip": 10.0, "ema": 0.999,
        "max_seconds": None, "seed": 0, "device": "cpu",
    },
    "log": {"every": None, "pictures": 0, "tensorboard": False},
    "validation": {"method": "auto", "chains": 100, "steps": None, "rows": 1000},
}  # fmt: skip
_OFF = "none"  # TOML has no null
_MAY_BE_OFF = {("training", "clip"), ("training", "ema")}


def defaults() -> Config:
    """A copy of :data:`DEFAULTS`."""
    return copy.deepcopy(DEFAULTS)


def packaged() -> list[str]:
    """Names of the configs that come with the package."""
    folder = resources.files("discrete_ebm") / "configs"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read(source: str | Path) -> Config:
    """The sections of a TOML file, or of a packaged config by its name.

    Raises:
        SettingError: no such file, not TOML, or not sections of settings.
    """
    path = Path(source)
    if path.is_dir() and (path / "config.toml").is_file():
        path = path / "config.toml"
    if path.is_file():
        text = path.read_bytes()
    elif str(source) in packaged():
        text = (resources.files("discrete_ebm") / "configs" / f"{source}.toml").read_bytes()
    else:
        near = difflib.get_close_matches(str(source), packaged(), 1, 0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingError(f"`config` must be a TOML file, a run's folder or one of {', '.join(packaged())}; got "
                           f"{str(source)!r}.{hint}")  # fmt: skip
    try:
        found = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise SettingError(f"`config` must be TOML; got {source} ({cause}). See docs/training.md.") from cause
    for name, section in found.items():
        if not isinstance(section, dict):
            raise SettingError(f"`{name}` in {source} must stand in a section; known: "
                               f"{', '.join(f'[{s}]' for s in DEFAULTS)}. {_nearest_key(name)}".rstrip())  # fmt: skip
    return found


def setting(text: str) -> tuple[str, str, Any]:
    """("training", "lr", 0.1) of ``training.lr=0.1``; a value that is not TOML is text.

    Raises:
        SettingError: not of that form.
    """
    place, equals, value = text.partition("=")
    section, dot, key = place.strip().partition(".")
    if not (equals and dot and key):
        raise SettingError(f"`set` must be SECTION.KEY=VALUE; got {text!r}. Try training.lr=0.001.")
    try:
        return section, key, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return section, key, value.strip()


def resolve(*layers: Mapping[str, Mapping[str, Any]], where: str = "the config") -> Config:
    """Defaults under what suits the model under the given layers, later over earlier, checked as a whole.

    A layer that names another objective, sampler or model drops what earlier ones set for theirs, and one that names
    another optimizer the step size.
    """
    config = defaults()
    for layer in (_suited(layers), *layers):
        for name, section in layer.items():
            if name not in config:
                near = difflib.get_close_matches(name, config, 1, 0.5)
                hint = f" Did you mean [{near[0]}]?" if near else ""
                raise SettingError(f"sections of {where} must be among {', '.join(config)}; got [{name}].{hint}")
            if "name" in section and section["name"] != config[name].get("name"):
                config[name] = copy.deepcopy(DEFAULTS[name])
            if section.get("optimizer", config[name].get("optimizer")) != config[name].get("optimizer"):
                config[name]["lr"] = DEFAULTS[name]["lr"]
            config[name] |= copy.deepcopy(dict(section))
    for place, key in _MAY_BE_OFF:
        if config[place][key] == _OFF:
            config[place][key] = None
    check(config, where)
    return config


def _suited(layers: Sequence[Mapping[str, Mapping[str, Any]]]) -> Mapping[str, Mapping[str, Any]]:
    """What suits the model that the layers end with, where they leave the objective open; nothing otherwise.

    What suits it may be another objective: not where a sampler or a setting of the default objective is asked for.
    """
    model, objective, asked = None, DEFAULTS["objective"]["name"], False
    for layer in layers:
        model = layer.get("model", {}).get("name", model)
        objective = layer.get("objective", {}).get("name", objective)
        asked = asked or bool(layer.get("objective") or layer.get("sampler"))
    if model not in models.names() or objective != DEFAULTS["objective"]["name"]:
        return {}
    suits = models.spec(str(model)).suits
    return {} if asked and suits.get("objective", {}).get("name", objective) != objective else suits


def check(config: Config, where: str = "the config") -> None:
    """Refuse names and keys that nothing answers to, with the nearest that something does.

    Raises:
        SettingError, RegistryError: an unknown key, or an unknown model, objective or sampler.
    """
    for name, section in config.items():
        known = _keys(name, config)
        for key in section:
            if known is not None and key not in known:
                _refuse(name, key, known, where, config)
    method = config["validation"]["method"]
    if method not in METHODS:
        raise SettingError(f"`method` must be one of {', '.join(METHODS)}; got {method!r}. Use 'auto'.")


def _keys(section: str, config: Config) -> list[str] | None:
    """What a section may hold, given what it names; None = anything (settings of foreign plug-ins)."""
    chosen = config[section].get("name")
    if section == "model":
        return ["name", *([] if chosen is None else models.settings_of(chosen))]
    if section == "data":
        return [*DEFAULTS["data"], "weights_at", *sorted(set().union(*catalogue._OPTIONS.values()))]
    if section == "objective":
        return _with_name(objectives.spec(str(chosen)).build, without=("sampler",))
    if section == "sampler":
        return ["name"] if chosen == "auto" else _with_name(samplers.spec(str(chosen)).build)
    return list(DEFAULTS[section])


def _with_name(build: Any, without: Sequence[str] = ()) -> list[str] | None:
    parameters = inspect.signature(build).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return ["name", *(parameter.name for parameter in parameters if parameter.name not in without)]


def _refuse(section: str, key: str, known: Sequence[str], where: str, config: Config) -> None:
    of = config[section].get("name")
    what = f"[{section}]" + (f" for {of}" if of else "")
    near = difflib.get_close_matches(key, known, 1, 0.5)
    elsewhere = next((other for other in config if other != section and key in DEFAULTS[other]), None)
    hint = f" Did you mean {near[0]!r}?" if near else f" It belongs to [{elsewhere}]." if elsewhere else ""
    raise SettingError(f"keys of {what} in {where} must be among {', '.join(known)}; got {key!r}.{hint}")


def _nearest_key(key: str) -> str:
    for section, keys in DEFAULTS.items():
        if key in keys:
            return f"Write it under [{section}]."
    return ""


def dumps(config: Mapping[str, Mapping[str, Any]]) -> str:
    """TOML text that :func:`read` and :func:`resolve` turn into the same config."""
    lines = []
    for name, section in config.items():
        lines.append(f"[{name}]")
        for key, value in section.items():
            if value is not None or (name, key) in _MAY_BE_OFF:
                lines.append(f"{key} = {_value(_OFF if value is None else value)}")
        lines.append("")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)  # a JSON string is a TOML string
