"""Where work runs: in this process, on a local Ray or on a Ray cluster. Knows nothing of the science."""
