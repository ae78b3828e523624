"""What a machine with a GPU reaches: numerical checks, speed and memory, and a study to its page.

`python -m tests.benchmarks.gpu` runs every section in a process of its own, within a time limit, and writes the figures
to a JSON file as they come. No section needs Ray. On a CPU the same code runs in its smallest size.
"""
