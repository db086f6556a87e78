"""What an estimate of log Z is about, where the training sampler aimed at another temperature."""

from __future__ import annotations

from typing import Any

from discrete_ebm.errors import CapabilityError

__all__ = ["need_unit_temperature"]

_CLOSE = 1e-6  # relative


def need_unit_temperature(energy: Any) -> None:
    """Refuse an energy whose negatives came from a sampler that aims at exp(−E/T) with T other than 1.

    Such an energy was taught what exp(−E/T) is, and exp(−E) is another, usually far wider law: its likelihoods would be
    numbers about nothing that was trained. What an energy was trained at is its ``implied_temperature``.

    Raises:
        CapabilityError: T is not 1.
    """
    temperature = getattr(energy, "implied_temperature", None)
    if temperature is None or abs(temperature - 1.0) <= _CLOSE:
        return
    law = f"energy / {temperature:g}, the law that it was trained as" if temperature > 0 else (
        "a sampler with noise to train with")
    raise CapabilityError(
        f"`energy` must have been trained at temperature 1 for an estimate of log Z; got one that was trained with a "
        f"sampler of temperature {temperature:g}. Use {law}; or 1.0 * energy if exp(−E) itself is what you mean."
    )
