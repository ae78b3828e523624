"""The science: images -> shards -> embeddings -> decoder -> samples -> questions -> report.

Knows nothing of Ray, of keys or of the store.
"""
