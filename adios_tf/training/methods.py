"""The methods that flags can name, and which settings contradict each other."""

from collections.abc import Sequence

from adios_tf.encoders import BACKBONES
from adios_tf.errors import UserError
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.objectives import OBJECTIVES
from adios_tf.registry import import_plugins
from adios_tf.training.config import PretrainConfig


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
    objective.check_settings(config)


def registered_lines(plugins: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Returns {flag: {name: line}} of all components, those of the plugins included."""
    import_plugins(plugins)
    return {r.kind: r.lines() for r in (OBJECTIVES, MASKINGS, FILLS, BACKBONES)}
