"""What a saved encoder has learned: every protocol of the papers, on arrays or from a run."""
