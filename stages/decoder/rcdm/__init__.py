"""The published RCDM: its ADM U-Net, its training, and its checkpoints as decoders of the store."""
