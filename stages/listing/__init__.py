"""The listing: every image of a dataset is read once, judged, and put into a split."""

LISTING_ROWS = 1024
"""Rows of one part of a listing, where the source is no files of many images."""

OK = "ok"
"""The status of an image that can be used."""

ATTRIBUTES = "attributes.json"
"""Object of a listing and of its shards: what is known of the images' attributes."""
