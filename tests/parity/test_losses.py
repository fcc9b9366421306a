"""Losses and their gradients against the official implementation (losses.npz)."""

import numpy as np
import pytest
import tensorflow as tf

from adios_tf.losses import CosineDistance, NegativeCosine, NTXent


def agree(ours, theirs, dtype, scale=None):
    """Relative to the largest entry: 1e-9 in float64, 1e-5 in float32."""
    tolerance = 1e-9 if dtype == tf.float64 else 1e-5
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    scale = max(np.abs(theirs).max(), 1e-12) if scale is None else scale
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64], ids=lambda d: d.name)
@pytest.mark.cases("losses", lambda file: file["names/ntxent"])
def test_nt_xent(golden, case, dtype):
    losses = golden("losses")
    z1 = tf.constant(losses[f"ntxent/{case}/z1"], dtype)
    z2 = tf.constant(losses[f"ntxent/{case}/z2"], dtype)
    with tf.GradientTape() as tape:
        tape.watch([z1, z2])
        loss = NTXent(float(losses[f"ntxent/{case}/temperature"]), dtype=dtype.name)(z1, z2)
    gradients = tape.gradient(loss, [z1, z2])
    # Near zero a loss is a difference of larger numbers: compare on the scale of one logit.
    agree(loss, losses[f"ntxent/{case}/loss"], dtype, scale=max(1.0, float(loss)))
    expected = [losses[f"ntxent/{case}/grad_{z}"] for z in ("z1", "z2")]
    for z, ours, theirs in zip((z1, z2), gradients, expected, strict=True):
        # A row's gradient goes with 1/norm; gradients that cancel to nothing are compared
        # on the scale they would have (one logit over the norm).
        norm = np.maximum(np.linalg.norm(z.numpy().astype(np.float64), axis=1), 1e-12)
        rows = np.maximum(np.abs(theirs).max(axis=1), 1.0 / norm / len(norm))[:, None]
        tolerance = 1e-9 if dtype == tf.float64 else 1e-5
        np.testing.assert_allclose(ours / rows, theirs / rows, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64], ids=lambda d: d.name)
@pytest.mark.cases(
    "losses",
    lambda file: [f"{m}/{case}" for m in ("byol", "simsiam") for case in file[f"names/{m}"]],
)
def test_cosine_losses(golden, case, dtype):
    losses = golden("losses")
    p = tf.constant(losses[f"{case}/p"], dtype)
    z = tf.constant(losses[f"{case}/z"], dtype)
    with tf.GradientTape() as tape:
        tape.watch(p)
        loss = (CosineDistance if case.startswith("byol/") else NegativeCosine)(dtype=dtype.name)(
            z, p
        )
    agree(loss, losses[f"{case}/loss"], dtype, scale=1.0)
    ours, theirs = tape.gradient(loss, p).numpy(), losses[f"{case}/grad_p"]
    norm = np.maximum(np.linalg.norm(p.numpy().astype(np.float64), axis=1), 1e-8)
    rows = np.maximum(np.abs(theirs).max(axis=1), 1.0 / norm / len(norm))[:, None]
    tolerance = 1e-9 if dtype == tf.float64 else 1e-5
    np.testing.assert_allclose(ours / rows, theirs / rows, rtol=0, atol=tolerance)
