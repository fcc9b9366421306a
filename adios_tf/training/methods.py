"""The methods that flags can name, and which settings contradict each other."""

import builtins
import dataclasses
from collections.abc import Sequence
from typing import Any

from adios_tf import cli
from adios_tf.encoders import BACKBONES
from adios_tf.errors import UserError
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.objectives import OBJECTIVES
from adios_tf.registry import import_plugins, parameters, unknown_name
from adios_tf.training.config import PretrainConfig

# What `build_pretrainer` hands over by itself.
_OURS = ("name", "in_channels", "plan", "total_steps")


def check_combination(config: PretrainConfig) -> None:
    """Raises `UserError` with the reason where the settings contradict each other."""
    policy, name = MASKINGS[config.masking], config.masking
    objective, fill = OBJECTIVES[config.objective], FILLS[config.fill]
    hides = policy.num_masks != 0
    if not hides and config.fill != "erase":
        raise UserError(
            f"--masking={name} hides nothing, so --fill={config.fill} would cover nothing: "
            "leave --fill out, or take a masking"
        )
    if not hides and config.masked_views != "auto":
        raise UserError(
            f"--masking={name} hides nothing in any view: leave --masked_views out, "
            "or take a masking"
        )
    if not hides and config.clean_weight == 0:
        raise UserError(
            f"--masking={name} with --clean_weight=0 leaves nothing to learn from: "
            "leave --clean_weight out, or take a masking"
        )
    if hides and policy.fills is not None and config.fill not in policy.fills:
        raise UserError(
            f"--masking={name} makes sense with --fill={' or '.join(policy.fills)} only, "
            f"not with {config.fill}: its masks say how two images are mixed"
        )
    if hides and fill.clean_weight is not None and config.batch_size < 2:
        raise UserError(f"--fill={config.fill} takes another image of the batch: it needs two")
    own_parameters(config)
    objective.check_settings(config)


def own_parameters(config: PretrainConfig) -> dict[str, Any]:
    """Returns --set as {name: value}, of the types that the constructors' annotations tell.

    `UserError` where no chosen component has such a parameter, or it is of another type.
    """
    flags, known = {field.name for field in dataclasses.fields(config)}, {}
    chosen = [OBJECTIVES[config.objective], MASKINGS[config.masking], FILLS[config.fill]]
    if config.backbone in BACKBONES:
        chosen.append(BACKBONES[config.backbone])
    for name, one in ((n, p) for part in chosen for n, p in parameters(part).items()):
        kind = type(one.default) if one.annotation is one.empty else one.annotation
        kind = getattr(builtins, kind, None) if isinstance(kind, str) else kind
        if name not in flags and name not in _OURS and cli.is_flag_type(kind):
            known[name] = kind
    given = [pair.partition("=")[0] for pair in config.set]
    for name in given:
        if name in flags:
            raise UserError(f"--set={name}=...: that is a flag, --{name}=...")
        if name not in known:
            raise unknown_name("parameter in --set", name, known)
    own = dataclasses.make_dataclass("Own", [(n, known[n], cli.setting(None, "")) for n in given])
    try:
        return dataclasses.asdict(cli.parse(own, [f"--{pair}" for pair in config.set]))
    except UserError as error:
        raise UserError(f"--set: {error}") from error


def registered_lines(plugins: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Returns {flag: {name: line}} of all components, those of the plugins included."""
    import_plugins(plugins)
    return {r.kind: r.lines() for r in (OBJECTIVES, MASKINGS, FILLS, BACKBONES)}
