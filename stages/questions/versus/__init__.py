"""The question `versus`: what the embedding of one encoder knows that the embedding of another does not."""
