"""Every error the packages raise on purpose, so that callers can tell causes apart.

Form of a message: *what* must be *constraint*; got *value, shape, dtype*. *One way out.*
"""


class EBMError(Exception):
    """Base of every error raised on purpose by discrete_ebm and graph_ebm."""


class ShapeError(EBMError, ValueError):
    """A tensor has the wrong shape or number of dimensions."""


class SpaceError(EBMError, ValueError):
    """A state holds values that its space does not allow, or a space cannot do what was asked."""


class SettingError(EBMError, ValueError):
    """An option or setting is out of its range."""


class RegistryError(EBMError, KeyError):
    """An unknown or duplicate name in a registry."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class CapabilityError(EBMError, TypeError):
    """An energy lacks what a kernel, objective or evaluation needs."""


class NonFiniteEnergyError(EBMError, RuntimeError):
    """An energy, gradient or parameter is NaN or infinite."""


class DivergenceError(EBMError, RuntimeError):
    """Training ran away; the last good state is kept."""


class CheckpointError(EBMError, RuntimeError):
    """A saved model or run cannot be written or read."""


class CorruptCheckpointError(CheckpointError):
    """A file of a saved model or run is damaged or incomplete."""


class RankError(EBMError, RuntimeError):
    """A process of a training that several share failed, is gone, or does not agree with the others."""


class RecoveryWarning(UserWarning):
    """A run went on after something went wrong: from an older checkpoint, or from before a divergence."""


class DataError(EBMError, ValueError):
    """A data file or table cannot be used as asked."""


class MoleculeError(EBMError, ValueError):
    """A molecule or a set of molecules cannot be used as asked."""


class SmilesRejected(MoleculeError):
    """One SMILES was refused; ``reason`` is a short machine-readable word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConformanceError(EBMError, AssertionError):
    """A sampler does not keep a promise that :func:`discrete_ebm.testing.check_sampler` checks."""
