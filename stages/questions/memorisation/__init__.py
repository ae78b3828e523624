"""The question `memorisation`: whether the decoder paints images that it was trained on."""
