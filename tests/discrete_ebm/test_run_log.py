"""Logs and pictures of a training: a line is the mean since the last one, a PNG is what another reader sees."""

import csv
import io

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm import pictures
from discrete_ebm.errors import CapabilityError
from discrete_ebm.run_log import RunLog


def read(path):
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def fit(folder, data, n_iterations, watch, **more):
    energy = de.energies.BernoulliRBM(9, 4, seed=0)
    return de.fit(energy, data.flatten(1), "cd", n_iterations, 10, output=folder, progress=False, callbacks=[watch],
                  checkpoint_every=10, warmup=0, **more)  # fmt: skip


def test_a_line_is_the_mean_of_the_updates_since_the_last_one_and_resuming_goes_on(tmp_path):
    data = de.datasets.bars_and_stripes(3)
    train, valid = data[:10].flatten(1), data[10:].flatten(1)
    fitted = fit(tmp_path, data, 25, RunLog(tmp_path, 10, train=train, valid=valid, n_pictures=20))
    log = read(tmp_path / "log.csv")
    assert log["iteration"].tolist() == [10, 20, 25]
    gap = np.array(fitted.history["gap"])
    assert log["gap"] == pytest.approx([gap[:10].mean(), gap[10:20].mean(), gap[20:].mean()], rel=1e-6, abs=1e-6)
    with torch.no_grad():
        last = fitted.energy(valid.float()).mean() - fitted.energy(train.float()).mean()
    assert log["validation_gap"][-1] == pytest.approx(float(last), abs=1e-5)
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["update-0000020.png", "update-0000025.png"]
    fit(tmp_path, data, 40, RunLog(tmp_path, 10, train=train, valid=valid), resume=True)
    assert read(tmp_path / "log.csv")["iteration"].tolist() == [10, 20, 25, 30, 40]


def test_lines_that_a_killed_session_wrote_after_its_checkpoint_are_replaced(tmp_path):
    (tmp_path / "log.csv").write_text("iteration,gap\n10,1\n20,2\n30,3\n")
    watch = RunLog(tmp_path, 10)

    class Trainer:
        iteration, n_iterations, seconds = 20, 40, 1.0
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    watch(Trainer(), {"gap": 5.0})
    log = read(tmp_path / "log.csv")
    assert log["iteration"].tolist() == [10, 20]
    assert log["gap"].tolist() == [1, 5]


def test_tensorboard_is_an_extra_that_says_so(tmp_path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(CapabilityError, match="pip install tensorboard"):
            RunLog(tmp_path, 1, tensorboard=True)
    else:
        watch = RunLog(tmp_path, 1, tensorboard=True)
        watch.close()
        assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("colours", [False, True])
def test_png_files_are_what_another_reader_sees(colours):
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3) if colours else (5, 7), dtype=np.uint8)
    seen = np.asarray(image_module.open(io.BytesIO(pictures.png(image, 2))))
    assert np.array_equal(seen, image.repeat(2, 0).repeat(2, 1))


def test_states_are_drawn_from_white_to_black_in_rows():
    x = torch.tensor([[[0, 1], [1, 0]], [[1, 1], [0, 0]]])
    page = pictures.grid_of(de.Binary((2, 2)), x)
    assert page.shape == (4, 7)
    assert page[1:3, 1:3].tolist() == [[255, 0], [0, 255]]
    assert page[1:3, 4:6].tolist() == [[0, 0], [255, 255]]
    assert pictures.grid_of(de.Spin(4), torch.tensor([[-1, 1, 1, -1]])).tolist()[1][1:3] == [255, 0]
    grey = pictures.grid_of(de.Categorical((1, 3), 3), torch.tensor([[[0, 1, 2]]]))
    assert grey[0, 1:4].tolist() == [255, 128, 0]
    colour = pictures.grid_of(de.Binary((3, 2, 2)), torch.zeros(1, 3, 2, 2, dtype=torch.int8))
    assert colour.shape == (4, 4, 3)
    labelled = de.datasets.digits().with_labels().first(3)
    assert pictures.grid_of(labelled.space, labelled.train).shape == (19, 19)
