"""The question `edits`: directions of an embedding that change one attribute, and what is painted along them."""
