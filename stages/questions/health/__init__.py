"""The question `health`: how a tap uses its vector space, and how alike taps are, from stored embeddings alone."""
