"""The question `invariance`: how far embeddings move under transformations, and what is painted from them."""
