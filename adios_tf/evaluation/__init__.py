"""What a saved encoder has learnt: every protocol of the papers, on arrays or from a run."""
