"""Penalties and their gradients against the official implementation (penalties.npz)."""

import numpy as np
import pytest
import tensorflow as tf

from adios_tf.masking.penalties import SPARSITY_EDGE, coverage, entropy, sparsity

METHODS = [f"{base}_adios{s}" for base in ("simclr", "byol", "simsiam") for s in ("", "_s")]


def views(penalties, method, case, dtype):
    """Logits of the masked views: SimSiam masks both."""
    names = ("a", "b") if method.startswith("simsiam") else ("a",)
    return {v: tf.constant(penalties[f"{case}/logits_{v}"], dtype) for v in names}


def away_from_the_edge(penalties, method, case):
    """Closer to 0 or 1 than the edge we depart on purpose (see `sparsity`)."""
    names = ("a", "b") if method.startswith("simsiam") else ("a",)
    areas = np.concatenate([penalties[f"{case}/area_{v}"].ravel() for v in names])
    return np.minimum(areas, 1 - areas).min() >= SPARSITY_EDGE


def test_some_case_is_away_from_the_edge(golden):
    penalties = golden("penalties")
    assert any(away_from_the_edge(penalties, "simclr_adios", case) for case in penalties["names"])


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64], ids=lambda d: d.name)
@pytest.mark.cases("penalties", lambda file: file["names"])
@pytest.mark.parametrize("method", METHODS)
def test_terms_and_gradients(golden, method, case, dtype):
    penalties = golden("penalties")
    logits = views(penalties, method, case, dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        masks = {v: tf.nn.softmax(x, -1) for v, x in logits.items()}
        areas = {v: coverage(m) for v, m in masks.items()}
        sparse = tf.add_n([sparsity(s) for s in areas.values()])
        stacks = [tf.concat(list(areas.values()), -1)]
        if method == "simsiam_adios_s":
            stacks = list(areas.values())
        # The official term: a negative entropy, summed over the batch.
        negative_entropy = tf.add_n(
            [-entropy(s, "softmax") * tf.cast(tf.shape(s)[0], dtype) for s in stacks]
        )
    tolerance = 1e-9 if dtype == tf.float64 else 1e-5
    terms = {"entropy": negative_entropy}
    if away_from_the_edge(penalties, method, case):
        terms["sparsity"] = sparse
    for name, value in terms.items():
        np.testing.assert_allclose(value, penalties[f"{case}/{method}/{name}"], rtol=tolerance)
        for view, ours in tape.gradient(value, logits).items():
            theirs = penalties[f"{case}/{method}/grad_{name}_{view}"]
            scale = max(np.abs(theirs).max(), 1e-9)
            if dtype == tf.float32:
                # A logit's gradient is a difference of the slots' terms, and the entropy's one
                # of terms p log p before that: where these cancel, float32 can be no better
                # than on their scale.
                terms_of_slots = tape.gradient(value, masks[view]) * masks[view]
                slots, pixels = ours.shape[-1], ours.shape[1] * ours.shape[2]
                of_entropy = np.log(slots) / slots / pixels * np.max(masks[view])
                scale = max(scale, np.abs(terms_of_slots).max())
                scale = max(scale, of_entropy) if name == "entropy" else scale
            np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=tolerance)
    for view, area in areas.items():
        np.testing.assert_allclose(
            area, penalties[f"{case}/area_{view}"], rtol=tolerance, atol=1e-12 + tolerance / 100
        )


def test_scalar_expression_away_from_the_ends(golden):
    penalties = golden("penalties")
    m = penalties["scalar/m_f64"]
    inside = np.minimum(m, 1 - m) >= SPARSITY_EDGE
    assert inside.sum() > len(m) / 2
    s = tf.constant(m[inside][:, None, None])
    with tf.GradientTape() as tape:
        tape.watch(s)
        values = tf.map_fn(sparsity, s)
    np.testing.assert_allclose(values, penalties["scalar/value_f64"][inside], rtol=1e-9)
    gradient = tape.gradient(values, s)[:, 0, 0]
    theirs = penalties["scalar/grad_f64"][inside]
    np.testing.assert_allclose(gradient, theirs, rtol=1e-9, atol=1e-9)
