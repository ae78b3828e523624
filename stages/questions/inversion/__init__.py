"""The question `inversion`: gradients back to pixels, the usual way to look into an embedding, beside samples."""
