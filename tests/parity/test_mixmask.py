"""MixMask against the official implementation (mixmask.npz).

The losses go through `Mix.weigh` and `MoCo`, the training steps through `Pretrainer`, which is
what users run. Where we depart on purpose: the EMA encoder moves at the end of a step (theirs at
the start of the next), and BatchNorm's running averages follow the clean views alone.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from adios_tf.losses import InfoNCE, MixMask
from adios_tf.masking import Masking, Mix
from adios_tf.masking.fill import Filled
from adios_tf.masking.grid import upsample
from adios_tf.objectives import Embedding, MoCo, View
from adios_tf.optimizers import SGD
from adios_tf.training.gradients import without_clean
from adios_tf.training.pretrainer import Pretrainer

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


class Stored(Masking):
    """The masks of the golden file, one for the whole batch."""

    masked_views = (2,)
    mask = None

    def masks(self, images, truth, seed, training=True):
        rows = tf.shape(images)[0]
        return tf.broadcast_to(1 - self.mask, [rows, *self.mask.shape])[..., None]


def plain(in_dim, out_dim):
    return keras.Sequential([keras.Input((in_dim,)), keras.layers.Dense(out_dim)])


def moco(queue, temperature, encoder=None, **settings):
    """MoCo with a stored queue; a stand-in encoder where only the loss counts."""
    width = queue.shape[0]
    if encoder is None:
        encoder = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten()])
    objective = MoCo(
        encoder,
        temperature=float(temperature),
        queue_size=queue.shape[1],
        projector=plain(encoder.output_shape[-1], width),
        **settings,
    )
    objective.queue.assign(queue.T)
    return objective


def share(hidden, rows):
    """A mask [rows,4,4] that hides this share of the image."""
    flat = np.arange(16) < round(16 * hidden)
    return tf.constant(np.broadcast_to(flat.reshape(4, 4), (rows, 4, 4)), tf.float32)


def hidden_exactly(hidden, rows):
    """A mask whose mean is any number: MixMask reads nothing else of it."""
    return tf.fill([rows, 4, 4], tf.cast(hidden, tf.float32))


def weighed(objective, views, mask, partner):
    pairs = without_clean(objective.occluded_pairs((2,)))
    cover = Filled(None, tf.constant(partner, tf.int32))
    return Mix().weigh(pairs, views, {2: mask}, {2: cover})


@pytest.mark.cases("mixmask", lambda file: file.heads("features/"))
def test_losses_and_gradients(golden, case):
    file = golden("mixmask")
    stored = file.group(f"features/{case}/")
    rows, lam = len(stored["q"]), float(stored["lam"])
    objective = moco(stored["queue"], stored["T"])
    q, mixed, key = (tf.constant(stored[n], tf.float32) for n in ("q", "q_mixed", "k"))
    reversal = np.arange(rows)[::-1].copy()
    with tf.GradientTape() as tape:
        tape.watch([q, mixed])
        views = {
            View(1): Embedding(key=key),
            View(2): Embedding(query=q),
            View(2, True): Embedding(query=mixed),
        }
        clean = objective.loss(views, objective.symmetric(View(2), View(1)))
        pairs, views = weighed(objective, views, share(1 - lam, rows), reversal)
        own, back = (objective.loss(views, [pair]) for pair in pairs)
        loss = clean + own + back
    expected = [stored["loss_o"], lam * stored["loss_m"], (1 - lam) * stored["loss_m_flip"]]
    np.testing.assert_allclose([clean, own, back], expected, **TOLERANCE)
    np.testing.assert_allclose(loss, stored["loss"], **TOLERANCE)
    for ours, name in zip(tape.gradient(loss, [q, mixed]), ("q", "q_mixed"), strict=True):
        np.testing.assert_allclose(ours, stored[f"grad_{name}"], **TOLERANCE)

    target = (key, tf.transpose(stored["queue"]))
    contrast = InfoNCE(float(stored["T"]))
    np.testing.assert_allclose(contrast(target, q), stored["loss_o"], **TOLERANCE)
    mixture = MixMask(contrast)((target, tf.fill([rows], lam), reversal), mixed)
    np.testing.assert_allclose(mixture, sum(expected[1:]), **TOLERANCE)

    objective.after_step({View(1): Embedding(key=key)}, tf.constant(0, tf.int64))
    np.testing.assert_allclose(objective.queue.numpy().T, stored["queue_after"], **TOLERANCE)
    assert int(objective.queue_place) == stored["queue_ptr_after"][0]


@pytest.mark.cases("mixmask", lambda file: file.heads("both/"))
def test_two_mixtures(golden, case):
    """Un-Mix and MixMask at once: one slot each, with partners of their own."""
    file = golden("mixmask")
    stored = file.group(f"both/{case}/")
    objective = moco(stored["queue"], stored["T"])
    names = ("q", "q_mixed", "q_mask")
    queries = [tf.constant(stored[n], tf.float32) for n in names]
    rows = len(stored["q"])
    partners = (np.arange(rows)[::-1].copy(), stored["index_mask"])
    with tf.GradientTape() as tape:
        tape.watch(queries)
        clean = {
            View(1): Embedding(key=tf.constant(stored["k"], tf.float32)),
            View(2): Embedding(query=queries[0]),
        }
        loss = objective.loss(clean, objective.symmetric(View(2), View(1)))
        losses = [loss]
        kinds = zip(queries[1:], ("unmix", "mask"), partners, strict=True)
        for mixed, kind, partner in kinds:
            mask = hidden_exactly(1 - stored[f"lam_{kind}"], rows)
            views = {**clean, View(2, True): Embedding(query=mixed)}
            pairs, views = weighed(objective, views, mask, partner)
            losses += [objective.loss(views, [pair]) for pair in pairs]
        loss = tf.add_n(losses)
    shares = [float(stored["lam_unmix"]), float(stored["lam_mask"])]
    weights = [1, shares[0], 1 - shares[0], shares[1], 1 - shares[1]]
    parts = [stored[f"loss_{n}"] for n in ("o", "m", "m_flip", "mask", "mask_flip")]
    np.testing.assert_allclose(losses, np.multiply(weights, parts), **TOLERANCE)
    np.testing.assert_allclose(loss, stored["loss"], **TOLERANCE)
    for ours, name in zip(tape.gradient(loss, queries), names, strict=True):
        np.testing.assert_allclose(ours, stored[f"grad_{name}"], **TOLERANCE)


def name_map(objective, key):
    """{official name: variable} of the query's networks, or of the EMA encoder."""
    encoder = objective.target_encoder if key else objective.encoder
    projector = objective.target_projector if key else objective.projector
    conv, norm = encoder.layers[:2]
    (dense,) = projector.layers
    return {
        "conv1.weight": conv.kernel,
        "bn1.weight": norm.gamma,
        "bn1.bias": norm.beta,
        "fc.weight": dense.kernel,
        "fc.bias": dense.bias,
    }


@pytest.mark.cases("mixmask", lambda file: file.heads("train_"))
def test_two_steps(golden, case):
    """Images, losses, gradients, weights, EMA encoder and queue over two steps of training."""
    file = golden("mixmask")
    settings, root = file.meta[f"train_{case}"], f"train_{case}/"
    init = file.group(f"{root}init/keras/")
    encoder = tiny.encoder(settings["size"], init["encoder_q.conv1.weight"].shape[-1])
    objective = moco(init["queue"].T, settings["T"], encoder, ema_base=settings["moco_m"])
    masking = Stored()
    model = Pretrainer(objective, masking, fill="mix")
    model.compile(SGD(settings["lr"], momentum=0.0), run_eagerly=True)
    slow, fast = name_map(objective, key=True), name_map(objective, key=False)
    for name, variable in fast.items():
        variable.assign(init[f"encoder_q.{name}"])
        slow[name].assign(init[f"encoder_k.{name}"])

    gradients = {}
    apply = model.optimizer.apply

    def recording(grads, trainable):
        gradients.update({id(v): g for g, v in zip(grads, trainable, strict=True)})
        return apply(grads, trainable)

    model.optimizer.apply = recording
    covered = []
    cover = model.fill.cover

    def watched(*args):
        covered.append(cover(*args))
        return covered[-1]

    model.fill.cover = watched

    for step in (1, 2):
        part = f"{root}batch{step}/"
        masking.mask = tf.constant(file[f"{part}mask"])
        batch = {"view1": file[f"{part}im_k"], "view2": file[f"{part}im_q"]}
        for mean in model.metrics:
            mean.reset_state()
        results = model.train_step({name: tf.constant(a) for name, a in batch.items()})
        np.testing.assert_array_equal(
            covered[-1].images.numpy(), file[f"{part}im_mixed"].astype(np.float32)
        )
        np.testing.assert_allclose(results["distance"], file[f"{part}loss"], **TOLERANCE)
        if step == 1:
            for name, variable in fast.items():
                expected = file[f"{root}grad1/keras/encoder_q.{name}"]
                np.testing.assert_allclose(gradients[id(variable)], expected, **TOLERANCE)
            begun = file.group(f"{root}after2/keras/encoder_k.")
            for name, variable in slow.items():
                np.testing.assert_allclose(variable.numpy(), begun[name], **TOLERANCE)
        after = file.group(f"{root}after{step}/keras/")
        for name, variable in fast.items():
            np.testing.assert_allclose(variable.numpy(), after[f"encoder_q.{name}"], **TOLERANCE)
        np.testing.assert_allclose(objective.queue.numpy(), after["queue"], **TOLERANCE)
        assert int(objective.queue_place) == after["queue_ptr"][0]
    assert len(gradients) == len(fast)


@pytest.mark.cases("mixmask", lambda file: file.heads("upsample/mask_"))
def test_upsampling(golden, case):
    file = golden("mixmask")
    grid = tf.constant(file["upsample/grid_mask"][None])
    ours = upsample(grid, int(case), int(case))[0]
    np.testing.assert_array_equal(ours, file[f"upsample/mask_{case}"])
