"""The question `layers`: how what a tap keeps changes with its depth in the network."""
