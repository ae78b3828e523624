"""The published RCDM as a network of ours: `load` takes a checkpoint's tensors by name and refuses any other."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveInt, TypeAdapter, ValidationError
from torch import Tensor

from stages.decoder.rcdm.network import Adm
from stages.decoder.rcdm.spec import AdmSettings
from stages.errors import InputError

WIDTH = "ssl_dim"
"""The field of a checkpoint's configuration that has the width of the embedding."""
NAMED = 6
"""How many names of tensors a message holds at most."""


def load(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Adm:
    """The network of a checkpoint, `network(x, t, h)`: evaluation mode, float32, without gradients of its weights.

    `config` holds every field of `AdmSettings` and `ssl_dim`, the width of the embedding; what else it holds, of the
    schedule or of the training, is not the network's. The tensors are taken as they are where they are float32, and
    not copied. Raises InputError where a setting is missing or wrong, and where tensors are missing, left over or of
    another shape, naming them.
    """
    settings, embedding = settings_of(config)
    return assembled(settings, embedding, state_dict)


def settings_of(config: Mapping[str, Any]) -> tuple[AdmSettings, int]:
    """The network's settings out of a checkpoint's, and the width of its embedding.

    None has a default here, for most of them show in no shape.
    """
    needed = (*AdmSettings.model_fields, WIDTH)
    if missing := [name for name in needed if name not in config]:
        raise InputError(
            expected=f"a configuration with {', '.join(needed)}",
            found=f"none of {', '.join(missing)}",
            remedy="Give the settings that the checkpoint was trained with.",
        )
    try:
        settings = AdmSettings.model_validate({name: config[name] for name in AdmSettings.model_fields})
        return settings, TypeAdapter(PositiveInt).validate_python(config[WIDTH])
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in error.errors(include_url=False))
        raise InputError(
            expected="the configuration of an ADM U-Net",
            found=wrong,
            remedy="Give the settings that the checkpoint was trained with.",
        ) from error


def assembled(settings: AdmSettings, embedding: int, tensors: Mapping[str, Tensor]) -> Adm:
    """The network of these tensors, as `load` does."""
    network = skeleton(settings, embedding)
    require(tensors, {name: tensor.shape for name, tensor in network.state_dict().items()})
    network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()}, assign=True)
    return network.eval().requires_grad_(False)


def skeleton(settings: AdmSettings, embedding: int) -> Adm:
    """The network without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return Adm(settings, embedding)


def require(found: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raises InputError unless `found` has exactly the `expected` names and shapes."""
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"{len(missing)} missing ({_few(missing)})")
    if extra := [name for name in found if name not in expected]:
        problems.append(f"{len(extra)} of no such network ({_few(extra)})")
    shaped = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if shaped:
        problems.append(f"{len(shaped)} of another shape ({_few(shaped)})")
    if problems:
        raise InputError(
            expected=f"the {len(expected)} tensors of this configuration",
            found="; ".join(problems),
            remedy="Give the plain state dict of the averaged weights, and the configuration that it was trained with.",
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
