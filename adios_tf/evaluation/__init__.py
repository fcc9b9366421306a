"""What a trained encoder and masker are worth: protocols, and the functions behind them."""

from adios_tf import lazy

_HOMES = {
    "PROTOCOLS": "adios_tf.evaluation.protocols:PROTOCOLS",
    "EvaluateConfig": "adios_tf.evaluation.config:EvaluateConfig",
    "EvaluationContext": "adios_tf.evaluation.context:EvaluationContext",
    "PartialResult": "adios_tf.evaluation.context:PartialResult",
    "cluster_scores": "adios_tf.evaluation.clustering:cluster_scores",
    "fine_tune": "adios_tf.evaluation.finetune:fine_tune",
    "knn_accuracy": "adios_tf.evaluation.knn:knn_accuracy",
    "logistic_probe": "adios_tf.evaluation.linear:logistic_probe",
    "mask_scores": "adios_tf.evaluation.mask_quality:mask_scores",
    "mcnemar": "adios_tf.evaluation.significance:mcnemar",
    "sgd_probe": "adios_tf.evaluation.linear:sgd_probe",
}

__getattr__, __dir__, __all__ = lazy.attach(__name__, _HOMES)
