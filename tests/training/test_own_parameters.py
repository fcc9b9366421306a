"""--set: parameters of one's own components, typed by their constructors."""

import dataclasses

import keras
import numpy as np
import pytest

from adios_tf import cli
from adios_tf.encoders import BACKBONES
from adios_tf.errors import UserError
from adios_tf.masking import FILLS, Paint
from adios_tf.run_folder import RunFolder
from adios_tf.training.build import build_pretrainer
from adios_tf.training.changes import changes
from adios_tf.training.config import PretrainConfig
from adios_tf.training.methods import own_parameters

SMALL = PretrainConfig(image_size=16, hidden_dim=8, output_dim=8, masking="blocks", grid_size=4)


class Unregistered(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable("test_own")
class Registered(Unregistered):
    pass


def encoder_of(layer):
    def build(
        name, image_size, in_channels, plan, *, width: int = 4, rates: tuple[float, ...] = ()
    ):
        images = keras.Input((image_size, image_size, in_channels))
        # Feature maps [B,h,w,D], of which the mean is taken.
        return keras.Model(images, layer(name="own")(keras.layers.Conv2D(width, 8, 8)(images)))

    return build


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """A fill `tint` with a parameter of each kind, encoders `fine` and `lost`."""
    for registry in (FILLS, BACKBONES):
        for part in ("_entries", "_lines"):
            monkeypatch.setattr(registry, part, dict(getattr(registry, part)))

    @FILLS.register("tint", "for tests")
    class Tint(Paint):
        def __init__(self, red: float = 1.0, bright: bool = False, tone: int | None = None):
            super().__init__()
            self.given = red, bright, tone

        def paint(self, images, seed):
            return images * self.given[0]

    BACKBONES.register("fine", "for tests")(encoder_of(Registered))
    BACKBONES.register("lost", "for tests")(encoder_of(Unregistered))


def read(*flags):
    base = [line for line in cli.flag_lines(SMALL) if not line.startswith("--fill")]
    return cli.parse(PretrainConfig, [*base, "--fill=tint", "--backbone=fine", *flags])


def test_parameters_reach_the_constructors_with_their_types():
    config = read("--set=red=3,bright=true", "--set=tone=7", "--set=width=5,rates=0.5,1,red=2")
    assert config.set == ("red=2", "bright=true", "tone=7", "width=5", "rates=0.5,1")
    model = build_pretrainer(config, 1, None)
    assert model.fill.given == (2.0, True, 7)
    assert [type(value) for value in model.fill.given] == [float, bool, int]
    assert model.objective.encoder.output_shape == (None, 5)
    assert own_parameters(config)["rates"] == (0.5, 1.0)
    again = cli.parse(PretrainConfig, cli.flag_lines(config))
    assert again == config


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--set=rad=3", "unknown parameter in --set 'rad': did you mean 'red'"),
        ("--set=tone=loud", "--set: .*tone.*loud"),
        ("--set=temperature=1", "--set=temperature=...: that is a flag, --temperature"),
        ("--set=total_steps=1", "unknown parameter in --set 'total_steps'"),
        ("--fill=tnit", "did you mean 'tint'.*--plugins=MODULE"),
    ],
)
def test_mistakes_are_one_line(flag, line):
    with pytest.raises(UserError, match=line) as error:
        build_pretrainer(read(flag), 1, None)
    assert "\n" not in str(error.value)


def test_another_value_on_a_resume_is_refused_by_name(tmp_path):
    run = RunFolder(tmp_path)
    run.begin(cli.flag_lines(read("--set=red=3", "--run_dir=x")), {})
    with pytest.raises(UserError, match="begun with --set=red=3"):
        changes(read("--set=red=4"), run)
    config = dataclasses.replace(read("--set=red=4"), allow_changes=("set",))
    assert changes(config, run) == {"set": ["red=3", "red=4"]}


def test_an_encoder_that_cannot_be_read_back_is_refused_before_the_first_step():
    with pytest.raises(UserError, match=r"'Unregistered'.*register_keras_serializable.*--plugins"):
        build_pretrainer(read("--backbone=lost"), 1, None)
    images = keras.Input((16, 16, 3))
    model = keras.Model(images, Unregistered()(keras.layers.Conv2D(4, 8, 8)(images)))
    with pytest.raises(UserError, match=r"'Unregistered'.*register_keras_serializable"):
        build_pretrainer(dataclasses.replace(SMALL, backbone="custom"), 1, None, model)
    built = build_pretrainer(read(), 1, None)
    assert np.shape(built.objective.encoder(np.zeros((2, 16, 16, 3), np.float32))) == (2, 4)
