"""What trainings share: batches prefetched, precision, ranks, row order and row files, and what a training ran with."""
