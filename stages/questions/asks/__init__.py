"""What questions ask to have painted: embeddings of held-out images, as they are or transformed."""
