"""The question `robustness`: how far small attacks on the pixels move embeddings, and what is painted from them."""
