"""The question `kept`: which attributes of the source its samples keep."""
