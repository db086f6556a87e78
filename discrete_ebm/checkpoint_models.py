"""How the families of models are described in a saved file and built again; registered when checkpoint is imported.

Each entry writes down what its constructor needs beside the tensors; the tensors give sizes and precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from discrete_ebm import checkpoint, energies

__all__: list[str] = []

Config = dict[str, Any]
Tensors = dict[str, Tensor]


def _zeros(tensors: Tensors, *names: str) -> dict[str, Any]:
    return {name: torch.zeros_like(tensors[name]) for name in names}


def _space(energy: Any) -> Config:
    return {"space": checkpoint.describe_space(energy.space)}


def _shape(energy: Any) -> Config:
    return {"shape": list(getattr(energy, "visible_shape", energy.space.shape))}


def _describe_boltzmann(energy: Any) -> Config:
    return {**_shape(energy), "n_hidden": energy.n_hidden, "connections": list(energy.connections)}


def _build_boltzmann(config: Config, tensors: Tensors) -> nn.Module:
    return energies.BoltzmannMachine(config["shape"], config["n_hidden"], connections=config["connections"],
                                     **_zeros(tensors, "coupling", "bias"))


def _describe_deep(energy: Any) -> Config:
    return {**_shape(energy), "hidden": list(energy.layer_sizes[1:])}


def _build_deep(config: Config, tensors: Tensors) -> nn.Module:
    weights = [torch.zeros_like(tensors[f"weights.{i}"]) for i in range(len(config["hidden"]))]
    return energies.DeepBoltzmannMachine(config["shape"], config["hidden"], weights=weights, **_zeros(tensors, "bias"))


def _describe_marginal(energy: Any) -> Config:
    return {"joint": checkpoint._describe(energy.joint)}


def _build_marginal(config: Config, tensors: Tensors) -> nn.Module:
    inner = {name.removeprefix("joint."): tensor for name, tensor in tensors.items()}
    return energies.VisibleMarginal(checkpoint._build(config["joint"], inner))


def _build_factors(config: Config, tensors: Tensors) -> nn.Module:
    n_groups = sum(name.startswith("sites_") for name in tensors)
    factors = [(tensors[f"sites_{i}"], torch.zeros_like(tensors[f"tables.{i}"])) for i in range(n_groups)]
    return energies.FactorGraph(checkpoint.build_space(config["space"]), factors)


def _build_general_potts(config: Config, tensors: Tensors) -> nn.Module:
    n_sites, k = tensors["field"].shape
    return energies.GeneralPotts(n_sites, k, edges=tensors.get("edge_index"), **_zeros(tensors, "coupling", "field"))


def _build_categorical_rbm(config: Config, tensors: Tensors) -> nn.Module:
    k = config["space"]["k"]
    return energies.CategoricalRBM(config["space"]["shape"], k[0] if len(set(k)) == 1 else k,
                                   tensors["weight"].shape[2], **_zeros(tensors, "weight"))


def _build_labelled_rbm(config: Config, tensors: Tensors) -> nn.Module:
    label = tensors["label_weight"]
    return energies.LabelledRBM(config["shape"], *label.shape, **_zeros(tensors, "weight", "label_weight"))


def _build_gaussian_rbm(config: Config, tensors: Tensors) -> nn.Module:
    return energies.GaussianBernoulliRBM(config["shape"], tensors["weight"].shape[1], **_zeros(tensors, "weight"))


def _build_experts(config: Config, tensors: Tensors) -> nn.Module:
    return energies.ProductOfExperts(checkpoint.build_space(config["space"]), *tensors["logits"].shape[2:],
                                     **_zeros(tensors, "logits"))


def _describe_mean_field(energy: Any) -> Config:
    return {**_space(energy), "trainable": energy.trainable}


def _build_mean_field(config: Config, tensors: Tensors) -> nn.Module:
    return energies.MeanField(checkpoint.build_space(config["space"]), trainable=config["trainable"],
                              **_zeros(tensors, "logits"))


def _describe_hmm(energy: Any) -> Config:
    return {"sigma": energy.sigma, "first": energy.first, "stay": energy.stay}


def _build_hmm(config: Config, tensors: Tensors) -> nn.Module:
    zeros = _zeros(tensors, "observed", "weight", "bias")
    return energies.FactorialHMM(**zeros, **{name: config[name] for name in ("sigma", "first", "stay")})


def _describe_network(energy: Any) -> Config:
    return {**_space(energy), "settings": energy.settings}


def _build_network(config: Config, tensors: Tensors) -> nn.Module:
    kind: Any = energies.ResNetEnergy if config["type"] == "ResNetEnergy" else energies.TransformerEnergy
    made: nn.Module = kind(checkpoint.build_space(config["space"]), **config["settings"])
    return made.to(tensors["head.weight"].dtype)


def _describe_classifier(energy: Any) -> Config:
    network = energy.network
    if type(network) is not energies.ImageClassifier:
        return {"type": checkpoint._CUSTOM, "class": type(energy).__name__}
    return {**_space(energy), "n_classes": energy.n_classes, "settings": network.settings,
            "in_training": energy.in_training}


def _build_classifier(config: Config, tensors: Tensors) -> nn.Module:
    space = checkpoint.build_space(config["space"])
    network = energies.ImageClassifier(space, config["n_classes"], **config["settings"])
    network.to(next(iter(tensors.values())).dtype)
    return energies.ClassifierEnergy(network, space, config["n_classes"], in_training=config["in_training"])


def _build_gaussians(config: Config, tensors: Tensors) -> nn.Module:
    return energies.ClassGaussians(checkpoint.build_space(config["space"]), *(
        tensors[name] for name in ("weights", "mean", "factor")))


checkpoint.register_energy(energies.ClassifierEnergy, _describe_classifier, _build_classifier)
checkpoint.register_energy(energies.ClassGaussians, _space, _build_gaussians)
checkpoint.register_energy(energies.BoltzmannMachine, _describe_boltzmann, _build_boltzmann)
checkpoint.register_energy(energies.DeepBoltzmannMachine, _describe_deep, _build_deep)
checkpoint.register_energy(energies.VisibleMarginal, _describe_marginal, _build_marginal)
checkpoint.register_energy(energies.FactorGraph, _space, _build_factors)
checkpoint.register_energy(energies.GeneralPotts, lambda energy: {}, _build_general_potts)
checkpoint.register_energy(energies.CategoricalRBM, _space, _build_categorical_rbm)
checkpoint.register_energy(energies.LabelledRBM, _shape, _build_labelled_rbm)
checkpoint.register_energy(energies.GaussianBernoulliRBM, _shape, _build_gaussian_rbm)
checkpoint.register_energy(energies.ProductOfExperts, _space, _build_experts)
checkpoint.register_energy(energies.MeanField, _describe_mean_field, _build_mean_field)
checkpoint.register_energy(energies.FactorialHMM, _describe_hmm, _build_hmm)
checkpoint.register_energy(energies.ResNetEnergy, _describe_network, _build_network)
checkpoint.register_energy(energies.TransformerEnergy, _describe_network, _build_network)
