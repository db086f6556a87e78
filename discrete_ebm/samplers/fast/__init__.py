"""Fused CPU kernels: other implementations of the same laws, compiled by numba, chosen automatically.

Kernels that have a fused form take ``implementation``: "auto" uses it where it is defined, "reference" never does,
"fused" refuses what it cannot do. :func:`set_fused` (or the environment variable DISCRETE_EBM_FUSED=0) switches all of
them off. Random numbers are others than the reference's, so a seed gives other draws of the same law.
"""

from discrete_ebm.samplers.fast.dispatch import fused_step, refusal, require_fused, require_fused_layers
from discrete_ebm.samplers.fast.switch import check_implementation, fused_available, fused_enabled, set_fused

__all__ = [
    "check_implementation",
    "fused_available",
    "fused_enabled",
    "fused_step",
    "refusal",
    "require_fused",
    "require_fused_layers",
    "set_fused",
]
