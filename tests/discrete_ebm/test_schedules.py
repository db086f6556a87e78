"""The step size falls as torch's own schedulers let it fall."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from discrete_ebm.errors import SettingError
from discrete_ebm.schedules import Schedule

N = 40


def torchs(shape: str, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    if shape == "linear":
        return lr_scheduler.LinearLR(optimizer, 1.0, 0.25, N)
    if shape == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, N, 0.25)
    if shape == "step":
        return lr_scheduler.MultiStepLR(optimizer, [N // 2, 3 * N // 4], 0.3)
    return lr_scheduler.ConstantLR(optimizer, 1.0, N)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "step"])
def test_the_step_size_is_that_of_torchs_scheduler(shape):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torchs(shape, optimizer)
    mine = Schedule(shape, end=0.25, factor=0.3)
    for update in range(N):
        assert mine(update / N) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"shape": "cosin"}, "`decay` must be one of"), ({"end": 2}, "`decay_end`"), ({"at": (0.0,)}, "`decay_at`"),
     ({"factor": math.inf}, "`decay_factor`")],
)  # fmt: skip
def test_impossible_schedules_are_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        Schedule(**settings)
