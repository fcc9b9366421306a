"""Handing it over: exports for production, a server, masks as files, PyTorch checkpoints."""
