"""From images to a table of embeddings: all taps and views of a part in one pass -> one Zarr shard each -> one store.

`stage` declares the step, `table` does it, `format` holds the store's layout, writing and reading.
"""
