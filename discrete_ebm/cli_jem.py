"""What ``discrete-ebm train jem`` does differently: pixels as reals, labels beside them, and a judgement of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

__all__ = ["CONFIG", "judged", "labelled_rows", "sentence", "with_reals"]

CONFIG = "jem-digits"  # the packaged config under `train jem` where no other is named
_EPSILON = 0.1  # of the range of a pixel, the radius of the attack that a training ends with


def with_reals(data: Any) -> Any:
    """The same data set with the values of each site spread from −1 to 1."""
    from discrete_ebm.objectives import as_reals

    parts = {name: getattr(data, name) for name in ("train", "valid", "test")}
    moved = {name: as_reals(data.space, x)[1] if len(x) else x.float() for name, x in parts.items()}
    return replace(data, space=as_reals(data.space, data.train)[0], **moved)


def labelled_rows(energy: Any, data: Any) -> Any:
    """The training rows as JEM takes them."""
    from discrete_ebm.objectives import LabelledStates

    return LabelledStates(energy.space, data.train, data.labels["train"], energy.n_classes)


def judged(energy: Any, data: Any, rows: int | None, seed: int) -> dict[str, Any]:
    """Accuracy, calibration and accuracy under attack on validation rows; far outsiders told by log p(x)."""
    import torch

    from discrete_ebm import evaluate

    part = "valid" if len(data.valid) else "train"
    x, y = getattr(data, part)[: rows or None], data.labels[part][: rows or None]
    low, high = energy.space.low, energy.space.high
    bounded = low is not None and high is not None
    attacks = {"linf": _EPSILON * float((high - low).mean())} if bounded else {}
    outside = {"random states": energy.space.random(max(2, len(x)), torch.Generator().manual_seed(seed))}
    found = evaluate.judge_hybrid(energy, x, y, outside, attacks=attacks, seed=seed)
    return {
        "part": part, "method": "classifier and density", "rows": len(x), "accuracy": found.calibration.accuracy,
        "ece": found.calibration.ece, "nll of labels": found.calibration.nll,
        "temperature": float(getattr(energy, "implied_temperature", 1.0)),
        **{f"accuracy under attack, {name}": value for name, value in found.robust.items()},
        **{f"AUROC of {score} against {name}": area.value for name, scores in found.outsiders.items()
           for score, area in scores.items()},
    }  # fmt: skip


def sentence(found: dict[str, Any]) -> str:
    """One line of :func:`judged`."""
    attack = next((f", {value:.1%} under attack ({name.rpartition(', ')[2]})" for name, value in found.items()
                   if name.startswith("accuracy under")), "")  # fmt: skip
    return (f"accuracy {found['accuracy']:.1%} on {found['rows']} {found['part']} rows, ECE {found['ece']:.3f}{attack}"
            f"; temperature {found['temperature']:g}")
