"""Encoders of the user's: settings of each kind of source, and how each is built. One file per kind."""
