"""The science: images -> shards -> embeddings -> decoder -> samples -> questions -> report. Knows nothing of Ray, keys or the store."""
