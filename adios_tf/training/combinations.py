"""Which words of the sentence make no sense together."""

from adios_tf.errors import UserError
from adios_tf.masking import MASKINGS
from adios_tf.training.config import PretrainConfig


def check_combination(config: PretrainConfig) -> None:
    """Raises `UserError` with the reason where the settings contradict each other."""
    policy = MASKINGS[config.masking]
    if policy.trains and config.masked_views == "both" and config.objective == "moco":
        raise UserError("moco has one query view: take --masked_views=second")
