"""Files outside the store that a study names by URL: fetched, or read range by range."""
