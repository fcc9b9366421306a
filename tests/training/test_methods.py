"""Every objective x masking x fill that makes sense, as the command line builds it.

Two steps each on tiny images. What is watched from inside the first step: the distance is finite,
the encoder's update touches no variable of the masking and lowers the distance, the masker's
touches no variable of the objective (weights, running averages, EMA copies, queue) and raises
what it is paid for.
"""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.encoders import BACKBONES
from adios_tf.errors import UserError
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.objectives import OBJECTIVES
from adios_tf.training.build import build_pretrainer
from adios_tf.training.config import PretrainConfig
from adios_tf.training.methods import check_combination

SIDE, BATCH = 16, 4
# The change of the objective that a step should make, to first order.
CHANGE = 1e-4

# (all variables of the component, those that its optimizer moves)
OBJECTIVE_PARAMETERS = {
    "simclr": (524, 508),
    "byol": (1168, 572),
    "simsiam": (704, 640),
    "moco": (1081, 508),
}
MASKER_PARAMETERS = {
    "adversarial": 150238,
    "adversarial_one": 150238,
    "sequential": 150269,
    "sequential_one": 150269,
}
REFUSED = {
    "nothing is hidden, nothing to cover": ({"masking": "none", "fill": "mix"}, "hides nothing"),
    "nothing is hidden in any view": ({"masking": "none", "masked_views": "both"}, "hides nothing"),
    "no pair at all": ({"masking": "none", "clean_weight": 0.0}, "nothing to learn"),
    "Un-Mix without a mixture": ({"masking": "unmix", "fill": "erase"}, "--fill=mix"),
    "both without a mixture": ({"masking": "unmix_blocks", "fill": "noise"}, "--fill=mix"),
    "nobody to mix with": ({"masking": "blocks", "fill": "mix", "batch_size": 1}, "needs two"),
    "a queue below a batch": ({"objective": "moco", "queue_size": 3}, "the 4 keys"),
    "a queue below two": ({"objective": "moco", "queue_size": 7, "symmetric": True}, "the 8 keys"),
    "one slot of a softmax": ({"masking": "adversarial", "num_masks": 1}, "at least 2"),
    "objects without a rest": ({"masking": "objects", "num_masks": 1}, "at least 2"),
    "more than everything": ({"masking": "sequential", "budget": (0.6,)}, "more than the whole"),
    "too many budgets": ({"masking": "sequential", "budget": (0.1,) * 3}, "give one, or one each"),
    "closed with one mask": (
        {"masking": "sequential", "num_masks": 1, "combination": "closed"},
        "at least 2",
    ),
    "no cell stays": ({"masking": "blocks", "keep_ratio": 0.01}, "leaves 0 of 16"),
    "all stays": ({"masking": "patches", "keep_ratio": 1.0}, "between 0 and 1"),
    "an unknown masking": ({"masking": "block"}, "did you mean 'blocks'"),
    "an unknown fill": ({"fill": "mixx"}, "did you mean 'mix'"),
}


@BACKBONES.register("test_methods", "one convolution, for a test")
def tiny_backbone(name, image_size, in_channels, plan):
    x = images = keras.Input((image_size, image_size, in_channels))
    x = keras.layers.Conv2D(8, 4, strides=4, use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    x = keras.layers.ReLU()(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


CONFIG = PretrainConfig(
    backbone="test_methods",
    image_size=SIDE,
    batch_size=BATCH,
    hidden_dim=8,
    output_dim=4,
    predictor_dim=4,
    queue_size=8,
    num_masks=2,
    masker_base=4,
    masker_blocks=2,
    masker_norm="no",
    grid_size=4,
    patch_size=4,
    sparsity_weight=0.1,
    optimizer="sgd",
    momentum=0.0,
    weight_decay=0.0,
    schedule="constant",
)


def own(registry):
    """The package's components, without those that other tests register."""
    return [name for name in registry if registry[name].__module__.startswith("adios_tf.")]


def configs():
    """All combinations of the three that are not refused."""
    found = []
    for objective, masking, fill in itertools.product(*map(own, (OBJECTIVES, MASKINGS, FILLS))):
        config = dataclasses.replace(CONFIG, objective=objective, masking=masking, fill=fill)
        try:
            check_combination(config)
        except UserError:
            continue
        found.append(config)
    return found


def name(config):
    return f"{config.objective}-{config.masking}-{config.fill}"


def batch():
    draw = np.random.default_rng(0)
    views = draw.normal(size=(2, BATCH, SIDE, SIDE, 3))
    views += draw.normal(size=(2, BATCH, 1, 1, 3))
    truth = draw.integers(0, 3, size=(2, BATCH, SIDE, SIDE))
    parts = {f"view{n + 1}": tf.constant(views[n], tf.float32) for n in range(2)}
    return parts | {f"mask{n + 1}": tf.constant(truth[n], tf.int32) for n in range(2)}


class Watch:
    """Looks into the two halves of a step of `model`."""

    def __init__(self, model):
        self.model, self.last, self.changes = model, None, {}
        self.shares = []
        self._wrap("_differentiate", self._differentiate)
        self._wrap("_descend_encoder", self._descend_encoder)
        self._wrap("_ascend_masker", self._ascend_masker)
        for optimizer in (model.optimizer, model.masker_optimizer):
            if optimizer is not None:
                self._aim(optimizer)
        if hasattr(model.fill, "visible_share"):
            self._freeze_shares(model.fill)

    def _wrap(self, method, around):
        original = getattr(self.model, method)
        setattr(self.model, method, lambda *args, **kwargs: around(original, *args, **kwargs))

    @staticmethod
    def _aim(optimizer):
        """Sets the rate so that a step changes the objective by `CHANGE`, to first order."""
        apply = optimizer.apply

        def aimed(gradients, variables):
            steepness = sum(float(tf.reduce_sum(tf.square(g))) for g in gradients)
            assert steepness > 0, "no gradient at all"
            optimizer.learning_rate = CHANGE / steepness
            apply(gradients, variables)

        optimizer.apply = aimed

    def _freeze_shares(self, fill):
        """The gradient takes MixMask's lambda for a constant, and so must the comparison."""
        original = fill.visible_share

        def frozen(mask):
            if self.last is not None and self.last.get("again"):
                return self.shares.pop(0)
            self.shares.append(original(mask))
            return self.shares[-1]

        fill.visible_share = frozen

    def _differentiate(self, original, data, slots, seeds, **what):
        self.shares, self.last = [], {"data": data, "seeds": seeds, "slots": slots}
        before = None if what["encoder"] else values(self.model.objective)
        result = original(data, slots, seeds, **what)
        if before is not None:
            after = values(self.model.objective)
            assert_equal(before, after, "looking at the masker's step moved the encoder")
        return result

    def _distance(self, slots):
        """The distance of the same batch and seeds under the weights of now."""
        self.last["again"] = True
        seed, data = self.last["seeds"]["fill"], self.last["data"]
        result = self.model.differentiator(data, slots, seed, 1.0, encoder=False, masks=False)
        self.last["again"] = False
        return float(result.distance)

    def _descend_encoder(self, original, result):
        before = values(self.model.masking)
        norm = original(result)
        assert_equal(before, values(self.model.masking), "the encoder's step moved the masker")
        self.changes["encoder"] = self._distance(self.last["slots"]) - float(result.distance)
        return norm

    def _ascend_masker(self, original, tape, slots, result, penalty):
        model, before = self.model, values(self.model.objective)
        norm = original(tape, slots, result, penalty)
        assert_equal(before, values(model.objective), "the masker's step moved the encoder")
        masks = model._masks(self.last["data"], self.last["seeds"]["masks"])
        anew = model.masking.slots(masks, self.last["seeds"]["masker"])
        after = self._distance(anew) - float(model.masking.penalty(masks))
        self.changes["masker"] = after - float(result.distance - penalty)
        return norm


def values(layer):
    return [v.numpy() for v in layer.variables]


def assert_equal(before, after, message):
    assert len(before) == len(after)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)), message


def count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.mark.parametrize("config", configs(), ids=name)
def test_two_steps(config):
    model = build_pretrainer(config, steps_per_epoch=10, num_classes=None)
    watch, data = Watch(model), batch()
    first = model.train_step(data)
    assert watch.changes["encoder"] < 0
    if model.masker_optimizer is not None:
        assert watch.changes["masker"] > 0
    second = model.train_step(data)
    for result in (first, second):
        assert all(np.isfinite(float(value)) for value in result.values())


def compiled_configs():
    """One by default; the others take a minute for every ten."""
    marks = {"byol-sequential_one-mean": ()}
    for config in configs():
        yield pytest.param(config, id=name(config), marks=marks.get(name(config), pytest.mark.slow))


@pytest.mark.parametrize("config", compiled_configs())
def test_xla_compiles_the_step(config):
    """XLA takes static shapes only, and nothing that asks Python."""
    model, data = build_pretrainer(config, steps_per_epoch=10, num_classes=None), batch()
    before = model.get_weights()
    compiled = tf.function(model.train_step, autograph=False, jit_compile=True)
    result = compiled(data)
    assert all(np.isfinite(value) for value in result.values())
    # XLA draws other random numbers from the same seed.
    chance = config.masking not in ("none", "adversarial") or config.fill == "noise"
    if not chance:
        model.set_weights(before)
        for mean in model._means.values():
            mean.reset_state()
        plain = model.train_step(data)
        np.testing.assert_allclose(result["distance"], plain["distance"], rtol=1e-4)


def test_over_a_hundred():
    """Four objectives, 10 maskings with 5 fills each, two of mixtures, and none."""
    assert len(configs()) >= 4 * (10 * 5 + 2 + 1)


@pytest.mark.parametrize("objective", OBJECTIVE_PARAMETERS)
def test_parameters_of_objectives(objective):
    config = dataclasses.replace(CONFIG, objective=objective, masking="none")
    built = build_pretrainer(config, 10, None).objective
    moved = built.trained_variables() + built.predictor_variables()
    assert (count(built.variables), count(moved)) == OBJECTIVE_PARAMETERS[objective]


@pytest.mark.parametrize("masking", MASKER_PARAMETERS)
def test_parameters_of_maskers(masking):
    built = build_pretrainer(dataclasses.replace(CONFIG, masking=masking), 10, None).masking
    assert count(built.variables) == MASKER_PARAMETERS[masking]
    assert count(built.trained_variables()) == MASKER_PARAMETERS[masking]


def test_every_masking_that_trains_is_counted():
    assert {name for name in own(MASKINGS) if MASKINGS[name].trains} == set(MASKER_PARAMETERS)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case):
    settings, reason = REFUSED[case]
    with pytest.raises(UserError, match=reason):
        build_pretrainer(dataclasses.replace(CONFIG, **settings), 10, None)
