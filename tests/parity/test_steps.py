"""Whole training steps against the official implementation (step_*.npz).

Two steps on two batches through `Pretrainer.train_step`, the code that users run. What the test
arranges because we depart on purpose (docs/fidelity.md): the probe reads both clean views, the
slot draws are the stored ones, and the entropy term is given in the official form. BatchNorm's
running averages are not compared; BYOL is compared with the `every/` arrays (EMA after every
step, the first included).
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.masking import Adversarial, AdversarialOne
from adios_tf.nets import build_predictor, build_projector, build_unet
from adios_tf.nets.torch_weights import official_mapping
from adios_tf.objectives import OBJECTIVES
from adios_tf.optimizers import SGD
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.probe import Probe

METHODS = [f"{base}_adios{s}" for base in ("simclr", "byol", "simsiam") for s in ("", "_s")]
# In float32, BatchNorm over the four images of a golden batch blows rounding up (the reference
# itself loses 2e-5 of its weights there), and Keras's form x * scale + (offset - mean * scale)
# more than PyTorch's; so the proof is the float64 run, of the same code.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


@pytest.fixture(params=TOLERANCE)
def precision(request):
    """Builds and runs everything in float32 or float64."""
    before = keras.config.floatx()
    keras.config.set_floatx(request.param)
    keras.mixed_precision.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before)
    keras.mixed_precision.set_dtype_policy(before)


class Stored(AdversarialOne):
    """ADIOS-s with the draws of the golden file instead of random ones."""

    draws: tuple = ()

    def draw_slots(self, rows, seed):
        draw, self.draws = self.draws[0], self.draws[1:]
        return tf.constant(draw, tf.int32)


def tiny_encoder():
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(8, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def build(golden_file, method):
    """Returns a compiled Pretrainer with the golden initial weights, and its name map."""
    hyper, meta = golden_file.meta["hyper"], golden_file.meta
    init = golden_file.group("init/keras/")
    base = method.split("_")[0]
    encoder = tiny_encoder()
    hidden = init["projector.0.weight"].shape[-1]
    kernels = [n for n in sorted(init) if n.startswith("projector") and init[n].ndim == 2]
    out = init[kernels[-1]].shape[-1]
    settings = {"projector": build_projector(base, 8, hidden, out)}
    if base == "simclr":
        settings["temperature"] = hyper["temperature"]
    else:
        width = init["predictor.0.weight"].shape[-1]
        settings["predictor"] = build_predictor(base, out, width, out)
    if base == "byol":
        settings |= {"ema_base": hyper["base_tau"], "ema_final": hyper["final_tau"]}
        settings["total_steps"] = hyper["max_steps"]
    if base == "simsiam":
        settings["symmetric_mask"] = hyper["use_symmetry_mask"]
        settings["no_mask"] = hyper["use_no_mask"]
        settings["both_mask"] = hyper["use_both_mask"]
    objective = OBJECTIVES[base](encoder, **settings)

    unet = build_unet(32, hyper["N"], base=meta["mask_fbase"], norm=meta["unet_norm"])
    masking = (Stored if method.endswith("_s") else Adversarial)(
        unet,
        sparsity_weight=hyper["alpha1"],
        entropy_weight=-hyper["alpha2"] * hyper["batch_size"],
        entropy_kind="softmax_joint" if method == "simsiam_adios" else "softmax",
    )
    probe = Probe(8, hyper["n_classes"], views=(1, 2))
    model = Pretrainer(objective, masking, probe=probe)
    model.compile(
        SGD(hyper["lr"], momentum=0.0),
        SGD(hyper["mask_lr"], momentum=0.0),
        probe_optimizer=SGD(hyper["classifier_lr"], momentum=0.0),
        run_eagerly=True,
    )
    names = name_map(model)
    for name, (variable, fix) in names.items():
        variable.assign(fix(init[name]))
    return model, names


def layer_variables(model):
    """Yields (parameter names, variables) per layer with weights, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            named = {"weight": layer.gamma, "bias": layer.beta}
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            named = {"weight": layer.kernel, "bias": layer.bias}
        else:
            continue
        yield {k: v for k, v in named.items() if v is not None}


def unchanged(array):
    return array


def name_map(model):
    """{official name: (our variable, golden array -> our layout)} of everything trained."""
    objective, names = model.objective, {}

    def add(prefixes, net):
        layers = list(layer_variables(net))
        assert len(layers) >= len(prefixes)
        for prefix, named in zip(prefixes, layers, strict=False):
            for kind, variable in named.items():
                names[f"{prefix}.{kind}"] = (variable, unchanged)

    heads = {"SimCLR": ("0", "2"), "BYOL": ("0", "1", "3"), "SimSiam": ("0", "1", "3", "4", "6")}
    indices = heads[type(objective).__name__]
    add(["encoder.conv1", "encoder.bn1"], objective.encoder)
    add([f"projector.{i}" for i in indices], objective.projector)
    if objective.predictor is not None:
        add([f"predictor.{i}" for i in ("0", "1", "3")], objective.predictor)
    if hasattr(objective, "target_encoder"):
        add(["momentum_encoder.conv1", "momentum_encoder.bn1"], objective.target_encoder)
        add([f"momentum_projector.{i}" for i in indices], objective.target_projector)
    classifier = model.probe.classifier
    names["classifier.weight"] = (classifier.kernel, unchanged)
    names["classifier.bias"] = (classifier.bias, unchanged)
    names |= masker_map(model.masking.masker)
    return names


def masker_map(unet):
    """The U-Net's names; the official bottleneck flattens channels first, ours channels last."""
    return {
        entry.official_name: (entry.variable, entry.to_keras)
        for entry in official_mapping(unet, "unet")
    }


def compare(ours, theirs, tolerance, what):
    """Largest difference within each network, relative to its largest entry.

    A bias before BatchNorm has no gradient but rounding noise, so a scale of its own would
    compare noise with noise.
    """
    scales = {}
    for name, array in theirs.items():
        network = name.split(".")[0]
        scales[network] = max(scales.get(network, 0.0), np.abs(array).max())
    for name, array in theirs.items():
        difference = np.abs(np.asarray(ours[name]) - array).max() / scales[name.split(".")[0]]
        assert difference < tolerance, f"{what} of {name}: {difference:.2e}"


@pytest.mark.parametrize("method", METHODS)
def test_two_steps(golden, method, precision):
    tolerance = TOLERANCE[precision]
    file = golden(f"step_{method}")
    model, names = build(file, method)
    variables = {id(v): n for n, (v, _) in names.items()}
    gradients = {}

    def spy(optimizer):
        apply = optimizer.apply

        def recording(grads, trainable):
            gradients.update({variables[id(v)]: g for g, v in zip(grads, trainable, strict=True)})
            return apply(grads, trainable)

        optimizer.apply = recording

    for optimizer in (model.optimizer, model.masker_optimizer, model.probe_optimizer):
        spy(optimizer)
    root = "every/" if method.startswith("byol") else ""

    for step in (1, 2):
        batch = {v: tf.cast(file[f"batch{step}/{v}"], precision) for v in ("view1", "view2")}
        batch["label"] = tf.constant(file[f"batch{step}/labels"])
        if step == 1:
            for view in model.masked_views:
                masks = model.masking.masks(batch[f"view{view}"], None, None)
                np.testing.assert_allclose(masks, file[f"masks0/view{view}"], atol=1e-5)
        if method.endswith("_s"):
            draws = [file[f"chosen{step}/{p}_phase"] for p in ("encoder", "mask")]
            model.masking.draws = tuple(draws)
        for mean in model.metrics:
            mean.reset_state()
        results = {name: float(value) for name, value in model.train_step(batch).items()}

        losses = {
            "encoder_objective": results["distance"],
            "classifier_loss": results["probe_loss"],
            "encoder_total": results["distance"] + results["probe_loss"],
            "mask_objective": results["masker_objective"],
            "mask_minimised": -results["masker_objective"],
        }
        for name, value in losses.items():
            expected = float(file[f"{root}losses{step}/{name}"])
            assert value == pytest.approx(expected, rel=tolerance, abs=tolerance), (step, name)
        if step == 1:
            expected = {n: names[n][1](g) for n, g in file.group("grad1/keras/").items()}
            compare(gradients, expected, tolerance, "gradient")
        after = file.group(f"{root}after{step}/keras/")
        if step == 1 or not root:  # the every/ variant leaves the masker out
            after |= file.group(f"after{step}/keras/mask_", keep="mask_")
        learned = [n for n in after if "running_" not in n and "num_batches" not in n]
        missing = set(names) - set(learned)
        assert all(n.startswith("mask_") for n in missing if root)
        assert root or not missing
        expected = {n: names[n][1](after[n]) for n in learned}
        compare({n: names[n][0].numpy() for n in learned}, expected, tolerance, f"after {step}")


@pytest.mark.parametrize("method", METHODS)
def test_every_trained_variable_is_compared(golden, method):
    """No variable of ours stays outside the comparison."""
    model, names = build(golden(f"step_{method}"), method)
    compared = {id(v) for v, _ in names.values()}
    sides = [v for _, group in model._encoder_groups() for v in group]
    for variable in sides + model.masking.trained_variables():
        assert id(variable) in compared, variable.path
