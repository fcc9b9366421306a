"""What flags offer and what probes sweep unless told otherwise; imports nothing heavy."""

AUGMENTATIONS = ("auto", "crop", "shift")
STRENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # of l2 regularization
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of SGD
HEADS = ("zeros", "uniform", "normal")  # first weights of a linear classifier
REPORTS = ("last", "best")  # epochs whose classifier counts
