"""Gradient norms in the records; test_replicas.py holds them equal on one device and several."""

import tensorflow as tf

from adios_tf.training.pretrainer import Pretrainer


class Fake:
    """Stands for a Pretrainer where only the norm is asked for."""

    _norm = Pretrainer._norm


def test_the_norm_is_without_the_scale_of_half_precision():
    gradients = [tf.constant([3.0, 0.0]), tf.constant([[4.0]])]
    assert float(Fake()._norm(gradients, tf.constant(1.0))) == 5.0
    assert float(Fake()._norm([128 * g for g in gradients], tf.constant(128.0))) == 5.0
