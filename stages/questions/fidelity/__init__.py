"""The question `fidelity`: whether samples look like images of the dataset, to an encoder that is not under study."""
