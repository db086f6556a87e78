"""Data sets in parts: digits in the package, images and tables from files, and what is refused with a sentence."""

import gzip
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import DataError, SettingError, SpaceError

IMAGES = Path("/work/shared/data/images")


def idx(array: np.ndarray) -> bytes:
    """MNIST's format, written from its description."""
    head = struct.pack(">HBB", 0, 0x08, array.ndim) + b"".join(struct.pack(">I", side) for side in array.shape)
    return head + array.astype(np.uint8).tobytes()


def test_packaged_digits_are_those_of_scikit_learn_and_no_row_is_in_two_parts():
    known = pytest.importorskip("sklearn.datasets").load_digits()
    grey = de.datasets.digits(levels=17)
    assert (len(grey.train), len(grey.valid), len(grey.test)) == (1437, 180, 180)
    together = torch.cat([grey.train, grey.valid, grey.test]).flatten(1).numpy()
    labels = torch.cat([grey.labels[part] for part in ("train", "valid", "test")]).numpy()
    mine = np.unique(np.column_stack([together, labels]), axis=0, return_counts=True)
    theirs = np.unique(np.column_stack([known.data, known.target]).astype(int), axis=0, return_counts=True)
    assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    bits = de.datasets.get("digits")
    assert torch.equal(bits.train, (grey.train >= 8).to(torch.int8))
    assert bits.space == de.Binary((8, 8))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_from_its_own_format_and_keeps_its_test_part(tmp_path, packed):
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (60, 5, 4)), "t10k": rng.integers(0, 256, (7, 5, 4))}
    for part, x in images.items():
        for stem, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", np.arange(len(x)) % 10)):
            raw = idx(array)
            (tmp_path / f"{stem}{'.gz' if packed else ''}").write_bytes(gzip.compress(raw) if packed else raw)
    data = de.datasets.get("mnist", folder=tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (50, 10, 7)
    assert data.test.numpy().tolist() == (images["t10k"] >= 128).astype(int).tolist()
    assert data.labels["test"].tolist() == list(range(7))
    levels = de.datasets.mnist(tmp_path, levels=4)
    assert levels.space == de.Categorical((5, 4), 4)
    assert levels.test.numpy().tolist() == (images["t10k"] // 64).tolist()
    draws = torch.stack([de.datasets.mnist(tmp_path, binarise="sample", seed=s).test for s in range(200)]).double()
    p = torch.from_numpy(images["t10k"] / 255)
    # 140 pixels: Hoeffding's bound for means of 200 draws at a false-failure budget of 1e-6 in all
    assert float((draws.mean(0) - p).abs().max()) < (np.log(2 * 140 / 1e-6) / 400) ** 0.5


@pytest.mark.parametrize("form", ["packed", "text", "matlab"])
def test_static_mnist_is_read_in_every_form_in_which_it_is_passed_on(tmp_path, form):
    rng = np.random.default_rng(1)
    rows = {part: rng.integers(0, 2, (3, 784), dtype=np.uint8) for part in ("train", "valid")}
    for part, x in rows.items():
        if form == "packed":
            np.savez(tmp_path / f"static_mnist_{part}.npz", bits=np.packbits(x, axis=1), shape=np.array([28, 28]))
        elif form == "text":
            np.savetxt(tmp_path / f"binarized_mnist_{part}.amat", x, fmt="%d")
        else:
            scipy_io = pytest.importorskip("scipy.io")
            with (tmp_path / f"binarized_mnist_{part}.amat").open("wb") as stream:  # its name lies
                scipy_io.savemat(stream, {"x": x})
    data = de.datasets.get("static-mnist", folder=tmp_path)
    assert data.train.flatten(1).tolist() == rows["train"].tolist()
    assert data.valid.flatten(1).tolist() == rows["valid"].tolist()
    with pytest.raises(DataError, match="'test' of static-mnist must have rows"):
        data.part("test")


@pytest.mark.skipif(not IMAGES.is_dir(), reason="the image files are not on this machine")
def test_the_users_own_image_files_are_read():
    sizes = {name: de.datasets.get(name, folder=IMAGES) for name in ("mnist", "omniglot")}
    assert len(sizes["mnist"]) == 10_000
    assert len(sizes["omniglot"]) == 2720
    assert int(max(part.max() for part in sizes["omniglot"].labels.values())) == 135  # 136 characters
    valid = de.datasets.load(IMAGES / "static_mnist_valid.npz")
    assert valid.shape == (10_000, 28, 28)
    assert 0.12 < float(valid.double().mean()) < 0.14


def test_tables_are_split_once_and_for_all_and_labels_stay_with_their_rows(tmp_path):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, (200, 6))
    np.savetxt(tmp_path / "t.csv", np.column_stack([x, x.sum(1)]), fmt="%d", delimiter=",", header="a,b,c,d,e,f,y",
               comments="")  # fmt: skip
    data = de.datasets.get(tmp_path / "t.csv", label=-1, shape=(2, 3))
    assert data.space == de.Binary((2, 3))
    assert (len(data.train), len(data.valid), len(data.test)) == (160, 20, 20)
    for part in ("train", "valid", "test"):
        assert torch.equal(getattr(data, part).flatten(1).sum(1), data.labels[part])
    again = de.datasets.read(tmp_path / "t.csv", label=6, shape=(2, 3))
    assert torch.equal(data.test, again.test)
    assert not torch.equal(data.test, de.datasets.read(tmp_path / "t.csv", label=6, shape=(2, 3), seed=1).test)
    np.savez(tmp_path / "own.npz", train=x[:10], valid=x[10:12], y_train=np.arange(10))
    own = de.datasets.get(tmp_path / "own.npz")
    assert (own.train.tolist(), own.valid.tolist(), len(own.test)) == (x[:10].tolist(), x[10:12].tolist(), 0)
    assert len(de.datasets.as_states(2 * x - 1)[0].shape) == 1
    assert de.datasets.as_states(2 * x - 1)[0] == de.Spin(6)
    assert de.datasets.as_states(x + 1, k=5)[0] == de.Categorical(6, 5)


def test_labels_join_the_state_of_a_labelled_model():
    data = de.datasets.digits().with_labels()
    energy = de.energies.LabelledRBM((8, 8), 10, 4)
    assert data.space == energy.space
    assert energy.space.validate(data.train).shape == (1437, 65)
    small = de.datasets.as_states(torch.tensor([[0, 1], [1, 0]]))[1]
    gap = de.datasets.Dataset("t", de.Binary(2), small, small, small[:0], {"train": torch.tensor([0, 2])})
    with pytest.raises(DataError, match="class 1 of 3 has none"):
        gap.with_labels()


@pytest.mark.parametrize(
    ("rows", "options", "error", "words"),
    [
        ([[0.0, 1.0], [np.nan, 0.0]], {}, DataError, "NaN or infinity in 1 of 2 rows, first in row 1"),
        ([[0.2, 1.0], [0.5, 0.0]], {}, DataError, "got fractions from 0 to 1. Binarise with threshold=0.5"),
        ([[-3, 1], [0, 5]], {}, DataError, "got whole numbers from -3 to 5"),
        ([[0, 2], [1, 0]], {"alphabet": "binary"}, SpaceError, "only 0 and 1"),
        ([[0, 2], [1, 0]], {"alphabet": "spins"}, SettingError, "`alphabet` must be one of"),
        ([[0, 2], [1, 0]], {"split": (0.5, 0.1, 0.1)}, SettingError, "add up to 1"),
        ([[0, 2], [1, 0]], {"split": (0.8, 0.1, 0.1)}, DataError, "a row for each of its parts; got 2"),
        ([[0, 2], [1, 0]], {"shape": (3, 3)}, SettingError, "must hold 2 sites"),
        ([[0, 2], [1, 0]], {"label": 7}, DataError, "must be a column"),
        ([[0, 2], [1, 0]], {"levels": 2}, SettingError, "`levels` must be left out"),
    ],
)
def test_bad_rows_are_refused_with_a_sentence(tmp_path, rows, options, error, words):
    np.save(tmp_path / "x.npy", np.array(rows))
    with pytest.raises(error, match=words):
        de.datasets.get(tmp_path / "x.npy", **options)


def test_files_that_are_no_data_are_refused_with_a_sentence(tmp_path):
    (tmp_path / "ragged.csv").write_text("1,0\n1\n")
    (tmp_path / "words.csv").write_text("a,b\n1,x\n")
    (tmp_path / "hole.csv").write_text("1,0\n,1\n")
    (tmp_path / "a.png").write_bytes(b"\x89PNG....")
    (tmp_path / "short.idx").write_bytes(idx(np.zeros((4, 4)))[:-3])
    for name, words in (
        ("ragged.csv", "whole file of numbers"),
        ("words.csv", "'x'"),
        ("hole.csv", "whole file of numbers"),
        ("a.png", "must be .npz, .npy, .csv"),
        ("short.idx", "16 values and holds 13"),
        ("digit", "Did you mean 'digits'"),
    ):
        with pytest.raises(DataError, match=words):
            de.datasets.get(name if name == "digit" else tmp_path / name)
    with pytest.raises(DataError, match="Nothing is downloaded"):
        de.datasets.get("mnist")
    with pytest.raises(DataError, match="must hold static_mnist_train"):
        de.datasets.get("static-mnist", folder=tmp_path)
    with pytest.raises(DataError, match="torchvision"):
        de.datasets.get("torchvision:NoSuchSet", folder=tmp_path)


def test_torchvision_is_used_where_it_is_and_never_needed(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    images = {True: rng.integers(0, 256, (12, 4, 4), dtype=np.uint8), False: rng.integers(0, 256, (3, 4, 4), np.uint8)}

    class FashionMNIST:
        def __init__(self, root, train, download):
            assert not download
            if root != str(tmp_path):
                raise RuntimeError("Dataset not found.")
            self.rows = [(image, i % 3) for i, image in enumerate(images[train])]

        def __iter__(self):
            return iter(self.rows)

    sets = types.ModuleType("torchvision.datasets")
    sets.FashionMNIST = FashionMNIST
    package = types.ModuleType("torchvision")
    package.datasets = sets
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", sets)
    data = de.datasets.get("torchvision:FashionMNIST", folder=tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (10, 2, 3)
    assert data.test.numpy().tolist() == (images[False] >= 128).astype(int).tolist()
    assert data.labels["test"].tolist() == [0, 1, 2]
    wrong = (("FashionMNIST", tmp_path / "no", "not found"), ("Nothing", tmp_path, "must name a class"))
    for name, folder, words in wrong:
        with pytest.raises(DataError, match=words):
            de.datasets.get(f"torchvision:{name}", folder=folder)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.datasets")
    with pytest.raises(DataError, match="needs a working torchvision"):
        de.datasets.get("torchvision:FashionMNIST", folder=tmp_path)


def test_other_common_files_of_images_are_read(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 256, (12, 28, 28), dtype=np.uint8), np.arange(12) % 4
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])  # as Keras has it
    keras = de.datasets.get("mnist", folder=tmp_path)
    assert (len(keras.train), len(keras.valid), len(keras.test)) == (10, 2, 3)
    assert torch.equal(keras.test, torch.from_numpy((x[:3] >= 128).astype(np.int8)))
    flat = x.reshape(12, -1).T / 255
    scipy_io.savemat(tmp_path / "chardata.mat", {"data": flat, "testdata": flat[:, :2]})
    burda = de.datasets.get("omniglot", folder=tmp_path)
    assert torch.equal(burda.test, keras.test[:2])
    with pytest.raises(DataError, match="must hold x"):
        de.datasets.omniglot(tmp_path / "mnist.npz")


def test_weights_of_rows_become_numbers_of_rows():
    x = torch.arange(4, dtype=torch.int8)[:, None] % 2
    weights = torch.tensor([0.25, 1.0, 0.75, 2.0], dtype=torch.float64)
    data = de.datasets.Dataset("t", de.Binary(1), x, x[:0], x[:0], weights=weights)
    rows = torch.arange(4).repeat_interleave(torch.tensor([5, 20, 15, 40]))
    assert torch.equal(data.weighted_train(20), x[rows])
    assert torch.equal(data.first(2).weights, torch.tensor([0.4, 1.6], dtype=torch.float64))
