"""Configs of trainings: files under options, unknown keys refused with the nearest name, written down whole."""

import tomllib

import pytest

import discrete_ebm as de
from discrete_ebm import models, run_config
from discrete_ebm.errors import EBMError, SettingError


@pytest.mark.parametrize("name", run_config.packaged())
def test_packaged_configs_are_whole_and_come_back_from_what_is_written(name):
    config = run_config.resolve(run_config.read(name))
    again = run_config.resolve(tomllib.loads(run_config.dumps(config)))
    assert again == config
    assert config["model"]["name"] in models.names()


def test_options_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[model]\nname = "rbm"\nhidden = 5\n[training]\nlr = 0.5\nclip = "none"\n[sampler]\nname = "gwg"\n')
    config = run_config.resolve(run_config.read(path), {"training": {"lr": 0.1}})
    assert config["training"]["lr"] == 0.1
    assert config["training"]["clip"] is None
    assert config["training"]["batch_size"] == run_config.DEFAULTS["training"]["batch_size"]
    assert config["model"] == {"name": "rbm", "hidden": 5}
    other = run_config.resolve(run_config.read(path), {"model": {"name": "mlp"}, "sampler": {"name": "auto"}})
    assert other["model"] == {"name": "mlp"}, "settings of another model do not apply"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(run_config.dumps(config))
    assert run_config.resolve(run_config.read(tmp_path / "run")) == config, "a run's folder is a config"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nitertions = 5", r"keys of \[training\] .* got 'itertions'. Did you mean 'iterations'\?"),
        ("[trainng]\nlr = 5", r"got \[trainng\]. Did you mean \[training\]\?"),
        ("lr = 5", r"`lr` in .* must stand in a section; .* Write it under \[training\]."),
        ('[model]\nname = "rbm"\nchannels = 5', r"\[model\] for rbm .* among name, hidden, scale; got 'channels'"),
        ('[objective]\nname = "cd"\nbank_sise = 5', r"\[objective\] for cd .* got 'bank_sise'"),
        ('[sampler]\nname = "gwg"\nbalancin = 5', r"Did you mean 'balancing'\?"),
        ("[model]\nlr = 0.1", r"It belongs to \[training\]."),
        ('[model]\nname = "rmb"', "Did you mean 'rbm'"),
        ('[objective]\nname = "pdc"', "Did you mean 'pcd'"),
        ('[sampler]\nname = "gwq"', "Did you mean 'gwg'"),
        ('[validation]\nmethod = "best"', "`method` must be one of auto, exact, ais, none"),
        ("[model\n", "must be TOML"),
    ],
)
def test_what_nothing_answers_to_is_refused_with_the_nearest_name(tmp_path, text, words):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(EBMError, match=words):
        run_config.resolve(run_config.read(path), where="c.toml")


def test_settings_on_the_command_line_are_toml_or_text():
    assert run_config.setting("training.lr=1e-3") == ("training", "lr", 1e-3)
    assert run_config.setting("objective.answer=[1, 2]") == ("objective", "answer", [1, 2])
    assert run_config.setting("training.decay=cosine") == ("training", "decay", "cosine")
    with pytest.raises(SettingError, match=r"SECTION\.KEY=VALUE"):
        run_config.setting("lr=3")


def dataset(alphabet: str):
    if alphabet == "labelled":
        return de.datasets.digits().with_labels().first(30)
    if alphabet == "real":
        import torch

        x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        space, x = de.datasets.as_states(x, "real")
        return de.datasets.Dataset("reals", space, x[:30], x[30:35], x[35:])
    data = de.datasets.digits(levels=2 if alphabet == "binary" else 4).first(30)
    return data.flat() if alphabet == "flat" else data


@pytest.mark.parametrize("name", models.names())
def test_every_model_of_the_table_is_trained_saved_and_read_again(tmp_path, name):
    import torch

    from discrete_ebm import checkpoint
    from discrete_ebm.cli_train import _suited

    small = {"resnet": {"channels": 4, "blocks": 1, "down": 1}, "transformer": {"width": 8, "layers": 1, "heads": 2},
             "deep-boltzmann": {"hidden": [5, 4]}, "boltzmann": {"hidden": 3},
             "product-of-experts": {"experts": 3}}  # fmt: skip
    alphabet = {"categorical-rbm": "grey", "potts": "grey", "general-potts": "flat", "gaussian-rbm": "real",
                "labelled-rbm": "labelled"}.get(name, "binary")  # fmt: skip
    data, settings = dataset(alphabet), small.get(name, {})
    energy = models.create(name, data, 0, **settings)
    x = data.train
    sampler = _suited(energy)
    kernel = de.samplers.create(sampler.pop("name"), **sampler)
    objective = de.objectives.PCD(kernel, 1, bank_size=10)
    if models.needs_completion(name, settings):
        x = de.draw_hidden(energy, x, generator=torch.Generator().manual_seed(0), n_steps=1)
        objective = de.objectives.Completed(objective)
    fitted = de.fit(energy, x, objective, n_iterations=2, batch_size=10, progress=False, output=tmp_path)
    again = checkpoint.load(tmp_path / "energy.safetensors")
    states = energy.space.validate(x[:3])
    assert torch.equal(again(again.space.encode(states)), fitted.energy(energy.space.encode(states)))
    with pytest.raises(SettingError, match="settings of the model"):
        models.create(name, data, 0, hiden=3)


def test_what_suits_a_model_takes_the_place_of_the_general_defaults():
    rbm = run_config.resolve({"model": {"name": "rbm"}})
    assert rbm["training"]["optimizer"] == "sgd"
    assert rbm["training"]["lr"] == 0.2
    assert rbm["objective"] == {"name": "pcd", "centre": "data"}
    own = {"training": {"lr": 0.05}, "objective": {"centre": "average"}}
    mine = run_config.resolve({"model": {"name": "rbm"}}, own)
    assert mine["training"]["lr"] == 0.05
    assert mine["objective"]["centre"] == "average"
    adam = run_config.resolve({"model": {"name": "rbm"}, "training": {"optimizer": "adam"}})
    assert adam["training"]["lr"] == run_config.DEFAULTS["training"]["lr"]
    other = run_config.resolve({"model": {"name": "rbm"}, "objective": {"name": "pseudo-likelihood"}})
    assert other["training"]["optimizer"] == "adam"
    mlp = run_config.resolve({"model": {"name": "mlp"}})
    assert mlp["objective"] == {"name": "pseudo-likelihood", "sites": 8}
    for asked in ({"sampler": {"name": "gwg"}}, {"objective": {"n_steps": 3}}, {"objective": {"name": "pcd"}}):
        config = run_config.resolve({"model": {"name": "mlp"}}, asked)
        assert config["objective"]["name"] == "pcd"
        assert config["training"]["lr"] == run_config.DEFAULTS["training"]["lr"]
