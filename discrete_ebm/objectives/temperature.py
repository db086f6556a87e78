"""What an energy was trained at: the temperature of the sampler that made its negatives, kept with the model."""

from __future__ import annotations

import math
from typing import Any

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.base import Kernel
from discrete_ebm.samplers.continuous import implied_temperature

__all__ = ["remember_temperature"]


def remember_temperature(energy: Any, kernel: Kernel) -> None:
    """Set ``energy.implied_temperature``, T of the law exp(−E/T) that ``kernel`` aims at; it is saved with the model.

    Nothing is set at T = 1, the usual case, unless an earlier training was at another; nor where the parts of a kernel
    aim at different temperatures, and the whole at none.
    """
    try:
        temperature = implied_temperature(kernel)
    except SettingError:
        return
    temperature = 1.0 if math.isclose(temperature, 1.0, rel_tol=1e-9) else temperature  # √(2ε)² is rounded
    if temperature != 1.0 or getattr(energy, "implied_temperature", None) is not None:
        energy.implied_temperature = temperature
