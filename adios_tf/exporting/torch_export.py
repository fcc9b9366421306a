"""Weights of a run as a checkpoint of the official PyTorch code."""

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from adios_tf import pretrained
from adios_tf.errors import UserError
from adios_tf.exporting.torch_file import write_torch_checkpoint
from adios_tf.exporting.torch_import import FACTS, KEPT
from adios_tf.nets.torch_weights import pads_as_torch, weights_to_official
from adios_tf.run_folder import read_json

_PREFIXES = {
    "encoder": "encoder.",
    "projector": "projector.",
    "predictor": "predictor.",
    "masker": "",
    "target_encoder": "momentum_encoder.",
    "target_projector": "momentum_projector.",
    "classifier": "classifier",
}


class Written(NamedTuple):
    """What was written: {name: array}, and what the user should know of it."""

    state: dict[str, np.ndarray]
    warnings: tuple[str, ...]


def export_torch(run: str | Path, path: str | Path) -> Written:
    """Writes a run's weights as the official code's checkpoint, to a file.

    An imported run gives the state_dict that it came from, name for name and bit for bit, where it
    was float32 or narrower; one that was trained here must have a ResNet v1 or a ViT. Optimizer
    states are not written. `UserError` where there is no such run, or networks that the official
    code does not have.
    """
    model, run = pretrained.load(run), Path(run).expanduser()
    facts = read_json(run / FACTS)
    if model.info.get("high_pass"):
        raise UserError("the official code has no high-pass filter before its encoder")
    state: dict[str, np.ndarray] = {}
    for name, network in model.parts().items():
        if name in facts.get("untrained", ()):
            continue
        prefix = facts.get("prefixes", _PREFIXES)[name]
        inner = _unwrapped(network)
        state |= weights_to_official(inner, _kind(name, inner, prefix), prefix=prefix)
    if facts:
        with np.load(run / KEPT) as kept:
            state |= {name: kept[f"array_{i}"] for i, name in enumerate(facts["kept"])}
        dtypes = facts["dtypes"]
        state = {name: state[name].astype(dtypes[name], copy=False) for name in facts["names"]}
    content: dict[str, Any] = facts.get("entries") or {
        "epoch": 0,
        "global_step": int(model.info.get("step", 0)),
    }
    content = content | {"state_dict": OrderedDict(state)}
    if facts.get("layout") != "moco":
        content |= {"callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    write_torch_checkpoint(path, content)
    warnings = ()
    if not pads_as_torch(model.encoder):
        warnings = (
            "the encoder pads its strided convolutions as Keras does: PyTorch's ResNet gives "
            "other features with these weights (train with --padding=torch to avoid that)",
        )
    return Written(state, warnings)


def _kind(name: str, network: keras.Model, prefix: str) -> str:
    if name.endswith("encoder"):
        layers = {layer.name for layer in network.layers}
        return "vit" if "patch_embedding" in layers else "resnet"
    if name.endswith("projector"):
        # MoCo v1 has a single layer, whose name has no number.
        return "projector" if prefix.endswith(".") else "dense"
    return {"masker": "unet", "classifier": "dense"}.get(name, name)


def _unwrapped(network: keras.Model) -> keras.Model:
    """The U-Net inside a saved masker, which ends in a softmax; other networks as they are."""
    inner = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    return inner[0] if len(inner) == 1 else network
