"""de.fit: promise 15 (training reaches the truth), promise 13 (bad updates leave no trace), and the loop's habits."""

import csv
import json
import math
import time

import pytest
import torch
from torch import nn

import discrete_ebm as de
from discrete_ebm.errors import (
    CapabilityError,
    CheckpointError,
    DataError,
    DivergenceError,
    NonFiniteEnergyError,
    SettingError,
)
from discrete_ebm.guards import Guard
from discrete_ebm.objectives import CD, PCD, Objective, ObjectiveOutput
from discrete_ebm.trainer import Batches, Trainer

QUIET = {"progress": False}
FIRST = Guard(retries=0)  # stop at the first fault


def true_ising(seed):
    g = torch.Generator().manual_seed(100 + seed)
    coupling = 0.35 * torch.randn(8, 8, generator=g)
    return de.energies.Ising((coupling + coupling.T).fill_diagonal_(0), 0.3 * torch.randn(8, generator=g))


def learn_ising(seed):
    truth = de.evaluate.exact(true_ising(seed))
    data = truth.sample(20_000, seed=seed)
    model = de.energies.Ising(torch.zeros(8, 8))
    began = time.process_time()
    fitted = de.fit(
        model,
        data,
        PCD(sampler="gibbs", n_steps=1, bank_size=1000),
        n_iterations=800,
        batch_size=500,
        lr=0.02,
        seed=seed,
        decay="linear",
        ema=0.99,
        progress=False,
    )
    seconds = time.process_time() - began
    start = truth.kl(de.evaluate.exact(de.energies.Ising(torch.zeros(8, 8))))
    return start, truth.kl(de.evaluate.exact(fitted.energy)), truth.kl(de.evaluate.exact(fitted.ema)), seconds


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pcd_recovers_an_8_spin_ising_model_to_0_01_nats(seed):
    # 36 parameters and 20,000 exact draws put the best possible fit at about 36 / 40,000 = 0.0009 nats.
    start, kl, averaged, seconds = learn_ising(seed)
    print(f"seed {seed}: KL {start:.3f} -> {kl:.5f} (averaged {averaged:.5f}) in {seconds:.1f} s of one core")
    assert start > 0.3
    assert kl <= 0.01
    assert averaged <= 0.01
    assert seconds <= 60


def small(seed=0):
    energy = de.energies.BernoulliRBM(6, 4, scale=0.1, seed=seed)
    return energy, de.evaluate.exact(de.energies.BernoulliRBM(6, 3, scale=1.5, seed=9)).sample(400, seed=1)


@pytest.mark.parametrize(
    "objective", [CD(sampler="block-gibbs", n_steps=1), PCD(sampler="gwg", n_steps=2, bank_size=100)]
)
def test_the_same_seed_gives_the_same_bits_and_the_global_generator_is_untouched(objective):
    results = []
    before = torch.get_rng_state()
    for seed in (3, 3, 4):
        energy, data = small()
        results.append(de.fit(energy, data, objective, n_iterations=30, seed=seed, **QUIET))
    first, again, other = results
    assert all(torch.equal(a, b) for a, b in zip(first.energy.parameters(), again.energy.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.ema.parameters(), again.ema.parameters(), strict=True))
    assert torch.equal(first.chains, again.chains)
    assert first.history["loss"] == again.history["loss"]
    assert any(not torch.equal(a, b) for a, b in zip(first.energy.parameters(), other.energy.parameters(), strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_the_result_holds_energy_ema_history_and_chains():
    energy, data = small()
    fitted = de.fit(energy, data, "pcd", n_iterations=12, batch_size=50, **QUIET)
    assert fitted.energy is energy
    assert fitted.ema is not energy
    assert not any(p.requires_grad for p in fitted.ema.parameters())
    assert {"iteration", "loss", "gap", "gradient_norm", "acceptance", "lr", "seconds"} <= set(fitted.history)
    assert {len(column) for column in fitted.history.values()} == {12}
    assert fitted.history["iteration"] == [float(n) for n in range(1, 13)]
    assert fitted.chains.shape == (1000, 6)
    assert de.sample(fitted.energy, x0=fitted.chains, n_steps=5).x.shape[1] == 1000
    assert de.fit(energy, data, CD(), n_iterations=2, ema=None, **QUIET).ema is None


def test_warm_up_decay_and_groups_set_the_learning_rate():
    energy, data = small()
    history = de.fit(energy, data, CD(), n_iterations=20, lr=0.1, warmup=5, decay="linear", **QUIET).history
    expected = [0.1 * min(1, (n + 1) / 5) * (1 - n / 20) for n in range(20)]
    assert history["lr"] == pytest.approx(expected)
    energy, data = small()
    weight = energy.weight.detach().clone()
    de.fit(energy, data, CD(), n_iterations=5, parameters=[energy.visible_bias], **QUIET)
    assert torch.equal(energy.weight, weight)


def test_gradients_are_clipped_by_norm():
    energy, data = small()
    trainer = Trainer(energy, CD(sampler="gibbs"), data, generator=torch.Generator().manual_seed(0), clip=1e-3)
    trainer.update(data)
    clipped = torch.stack([p.grad.norm() for p in energy.parameters()]).norm()
    assert trainer.history["gradient_norm"][0] > 1e-3
    assert float(clipped) <= 1.001e-3


class Normed(nn.Module):
    """A network with a buffer that counts training calls."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, encoding):
        if torch.is_grad_enabled():
            self.calls += 1
        return self.layer(encoding)[:, 0]


def test_ema_averages_parameters_and_copies_buffers():
    energy = de.from_callable(Normed(), de.Binary(6))
    _, data = small()
    mean = energy.fn.layer.weight.detach().clone()
    seen = []
    fitted = de.fit(
        energy,
        data,
        CD(sampler="gibbs"),
        n_iterations=20,
        lr=0.05,
        ema=0.9,
        **QUIET,
        callbacks=[lambda trainer, terms: seen.append(trainer.energy.fn.layer.weight.detach().clone())],
    )
    for n, value in enumerate(seen, start=1):
        mean += (1 - min(0.9, n / (n + 9))) * (value - mean)
    assert torch.allclose(fitted.ema.fn.layer.weight, mean, atol=1e-6)
    assert float((fitted.ema.fn.layer.weight - fitted.energy.fn.layer.weight.detach()).abs().max()) > 1e-3
    assert float(fitted.ema.fn.calls) == float(fitted.energy.fn.calls) == 20


class Poison(Objective):
    """A calm objective that goes wrong at one update, in a way of the test's choice."""

    def __init__(self, how, at=3):
        self.how, self.at, self.calls = how, at, 0

    def loss(self, energy, batch, state, *, generator):
        self.calls += 1
        output = CD(sampler="gibbs").loss(energy, batch, state, generator=generator)
        if self.calls == self.at:
            self.how(energy, output)
        return output


def nan_loss(energy, output):
    output.loss = output.loss * math.nan


def inf_term(energy, output):
    output.terms["positive_energy"] = torch.tensor(math.inf)


def nan_gradient(energy, output):
    output.loss = output.loss + (0 * energy.fn.layer.weight).sum().sqrt()


def user_bug(energy, output):
    energy.fn.calls += 5
    raise ZeroDivisionError("a bug of the user's")


def parameters_of(energy):
    return {name: value.clone() for name, value in energy.state_dict().items()}


def same(energy, before):
    return all(torch.equal(before[name], value) for name, value in energy.state_dict().items())


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        (nan_loss, NonFiniteEnergyError, "loss = nan"),
        (inf_term, NonFiniteEnergyError, "positive_energy = inf"),
        (nan_gradient, NonFiniteEnergyError, "`gradient` must be finite; got NaN or infinity in fn.layer.weight"),
        (user_bug, ZeroDivisionError, "a bug"),
    ],
)
def test_a_bad_update_stops_training_names_the_cause_and_leaves_no_trace(how, error, words):
    energy = de.from_callable(Normed(), de.Binary(6))
    _, data = small()
    after = []
    with pytest.raises(error, match=words):
        de.fit(
            energy,
            data,
            Poison(how),
            n_iterations=10,
            lr=0.05,
            guard=FIRST,
            **QUIET,
            callbacks=[lambda trainer, terms: after.append(parameters_of(trainer.energy))],
        )
    assert len(after) == 2  # stopped in the same update
    assert same(energy, after[-1])
    assert all(p.grad is None for p in energy.parameters())


def test_parameters_that_overflow_are_put_back():
    energy, data = small()
    before = parameters_of(energy)
    generator = torch.Generator().manual_seed(0)
    trainer = Trainer(energy, CD(sampler="block-gibbs"), data, generator=generator, guard=FIRST)
    trainer.optimizer.register_step_post_hook(lambda *_: energy.weight.data[0, 0].fill_(math.inf))
    with pytest.raises(NonFiniteEnergyError, match=r"`parameters` must be finite.*in weight.*after update 0"):
        trainer.run(Batches(data, 10, trainer.generator))
    assert same(energy, before)


def test_an_energy_that_breaks_while_sampling_stops_training_with_the_chains_named():
    energy = de.from_callable(Normed(), de.Binary(6))
    _, data = small()
    broken = []

    def poison(trainer, terms):
        if trainer.iteration == 3:
            with torch.no_grad():
                trainer.energy.fn.layer.weight[0, 2] = math.nan
            broken.append(parameters_of(trainer.energy))

    with pytest.raises(NonFiniteEnergyError, match=r"in chains 0, 1, 2.*of 100.*stopped at update 4"):
        de.fit(energy, data, CD(sampler="gwg"), n_iterations=10, callbacks=[poison], guard=FIRST, **QUIET)
    assert energy.fn.layer.bias.equal(broken[0]["fn.layer.bias"])


def test_divergence_returns_to_a_calm_state():
    class RunAway(Objective):
        def loss(self, energy, batch, state, *, generator):
            # unbounded: lowers the data's energy for ever, faster and faster
            value = energy(energy.space.encode(batch)).mean()
            gap = -value.detach() if trainer_iteration[0] < 120 else torch.tensor(1e6)
            trainer_iteration[0] += 1
            return ObjectiveOutput(value, {"gap": gap})

    trainer_iteration = [0]
    energy = de.from_callable(Normed(), de.Binary(6))
    _, data = small()
    kept = {}

    def remember(trainer, terms):
        kept[trainer.iteration] = parameters_of(trainer.energy)

    with pytest.raises(DivergenceError, match="the energy holds the parameters after update 100"):
        de.fit(energy, data, RunAway(), n_iterations=500, lr=1e-4, callbacks=[remember], guard=FIRST, **QUIET)
    assert max(kept) < 120 + 50
    assert same(energy, kept[100])


def test_ctrl_c_keeps_what_is_done(tmp_path):
    def interrupt(trainer, terms):
        if trainer.iteration == 5:
            raise KeyboardInterrupt

    energy, data = small()
    fitted = de.fit(energy, data, CD(), n_iterations=50, callbacks=[interrupt], output=tmp_path / "run", **QUIET)
    assert fitted.interrupted
    assert len(fitted.history["loss"]) == 5
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is False
    assert (tmp_path / "run" / "energy.safetensors").is_file()


def test_ctrl_c_in_the_middle_of_an_update_leaves_the_last_whole_one():
    energy = de.from_callable(Normed(), de.Binary(6))
    _, data = small()

    def stop(energy, output):
        with torch.no_grad():
            energy.fn.layer.weight.zero_()
        raise KeyboardInterrupt

    after = []
    fitted = de.fit(
        energy,
        data,
        Poison(stop),
        n_iterations=10,
        **QUIET,
        callbacks=[lambda trainer, terms: after.append(parameters_of(trainer.energy))],
    )
    assert fitted.interrupted
    assert same(energy, after[-1])


def test_callbacks_and_time_limits_end_a_training_early():
    energy, data = small()
    fitted = de.fit(
        energy, data, CD(), n_iterations=50, callbacks=[lambda trainer, terms: trainer.iteration == 4], **QUIET
    )
    assert len(fitted.history["loss"]) == 4
    assert not fitted.interrupted
    limited = de.fit(energy, data, CD(), n_iterations=10**6, max_seconds=0.3, decay="linear", **QUIET)
    assert 0 < len(limited.history["loss"]) < 10**5
    assert limited.history["lr"][-1] < 1e-3


def test_the_processor_clock_does_not_count_waiting():
    def seconds(clock):
        energy, data = small()
        generator = torch.Generator().manual_seed(0)
        trainer = Trainer(energy, CD(), data, generator=generator, n_iterations=3, max_seconds=1e6, clock=clock)
        trainer.run(Batches(data, 10, generator), [lambda trainer, terms: time.sleep(0.4)])
        return trainer.seconds

    assert seconds("wall") >= 1.2  # three sleeps
    assert seconds("processor") < 1.2
    with pytest.raises(SettingError, match="`clock` must be one of wall, processor; got 'sun'"):
        seconds("sun")


def test_the_penalty_is_set_on_the_objective():
    energy, data = small()
    plain = de.fit(energy, data, CD(sampler="block-gibbs"), n_iterations=1, **QUIET).history
    energy, data = small()
    penalised = de.fit(energy, data, CD(sampler="block-gibbs"), n_iterations=1, penalty=0.5, **QUIET).history
    assert penalised["loss"][0] > plain["loss"][0]
    with pytest.raises(SettingError, match="`penalty` must be None for Poison"):
        de.fit(energy, data, Poison(nan_loss), penalty=0.5, **QUIET)


def test_output_holds_what_evaluate_needs(tmp_path):
    energy, data = small()
    fitted = de.fit(energy, data, "cd", n_iterations=3, output=tmp_path / "a" / "run", **QUIET)
    folder = fitted.output
    assert {path.name for path in folder.iterdir()} == {
        "energy.safetensors",
        "ema.safetensors",
        "chains.safetensors",
        "history.csv",
        "run.json",
        "checkpoints",
    }
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == fitted.history["loss"]
    assert json.loads((folder / "run.json").read_text())["iterations"] == 3
    assert json.loads((folder / "run.json").read_text())["seed"] == 0
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="`output` must be a folder"):
        de.fit(energy, data, "cd", output=tmp_path / "file", **QUIET)


def test_batches_visit_every_row_once_per_epoch():
    stream = Batches(torch.arange(10), 4, torch.Generator().manual_seed(0))
    seen = torch.cat([next(stream) for _ in range(5)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert len(next(Batches(torch.arange(3), 100, torch.Generator().manual_seed(0)))) == 3


def test_data_of_another_kind_goes_to_the_objective_as_it_is():
    class Pairs:
        space = de.Binary(6)

        def __init__(self, x):
            self.x = x

        def __len__(self):
            return len(self.x)

        def __getitem__(self, rows):
            return Pairs(self.x[rows])

    class Own(Objective):
        def loss(self, energy, batch, state, *, generator):
            return CD(sampler="gibbs").loss(energy, batch.x, state, generator=generator)

    energy, data = small()
    assert len(de.fit(energy, Pairs(data), Own(), n_iterations=2, **QUIET).history["loss"]) == 2


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_iterations": 0}, SettingError, "`n_iterations`"),
        ({"batch_size": 0}, SettingError, "`batch_size`"),
        ({"lr": -1.0}, SettingError, "`lr` must be positive"),
        ({"clip": 0.0}, SettingError, "`clip`"),
        ({"warmup": -1}, SettingError, "`warmup`"),
        ({"decay": "cosin"}, SettingError, "`decay`"),
        ({"ema": 1.0}, SettingError, "`ema`"),
        ({"seed": "a"}, SettingError, "`seed`"),
        ({"data": torch.zeros(0, 6)}, DataError, "at least one row"),
        ({"data": torch.full((5, 6), 3)}, de.errors.SpaceError, "0 and 1"),
        ({"objective": 3}, SettingError, "`objective` must be an Objective"),
        ({"objective": "pdc"}, de.errors.RegistryError, "pcd"),
        ({"objective": CD(sampler="langevin")}, SettingError, "For this space"),
        (
            {"energy": de.from_callable(lambda e: e.sum(-1), de.Binary(6))},
            SettingError,
            "parameters that require gradients",
        ),
        ({"energy": 3}, CapabilityError, "`energy`"),
        ({"device": "abacus"}, SettingError, "`device`"),
    ],
)
def test_bad_input_is_refused_with_a_sentence_before_any_update(change, error, words):
    energy, data = small()
    settings = {"energy": energy, "data": data, "objective": CD(), **QUIET, **change}
    before = parameters_of(energy)
    with pytest.raises(error, match=words):
        de.fit(**settings)
    assert same(energy, before)


def test_an_objective_that_does_not_see_the_parameters_is_refused():
    class Blind(Objective):
        def loss(self, energy, batch, state, *, generator):
            return ObjectiveOutput(torch.zeros(()))

    energy, data = small()
    with pytest.raises(CapabilityError, match="must depend on the energy's parameters"):
        de.fit(energy, data, Blind(), **QUIET)


def test_a_guard_can_be_loosened_or_left_out():
    energy, data = small()
    for guard in (None, Guard(least_acceptance=0, gap_ratio=1e9)):
        assert len(de.fit(energy, data, CD(), n_iterations=2, guard=guard, **QUIET).history["loss"]) == 2


@pytest.mark.parametrize(("options", "word"), [({}, "training:"), ({"label": "expert qed"}, "expert qed:")])
def test_the_progress_bar_says_what_is_trained(options, word, capsys):
    data = torch.zeros(4, 3, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    trainer = Trainer(de.energies.Ising(torch.zeros(3, 3), space=de.Binary(3)), CD(), data, generator=generator,
                      n_iterations=1)  # fmt: skip
    assert trainer.run(Batches(data, 4, generator), progress=True, **options)
    assert word in capsys.readouterr().err
