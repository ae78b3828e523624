"""The explorer: one page with a map of the held-out images at each tap of a finished study.

`content` reads a study, `projection` makes the maps, `page` writes the HTML. Nothing here is a stage: the page is made
from artifacts and is none itself.
"""
