"""Questions: what to paint, and what to compute from it. A question is a folder of its own; `catalogue` lists them.

A question has conditions painted (its ask, in `asks/`, then `samples`) and the samples embedded again (`embeddings`),
and answers with rows and figures. `question` is what it declares, `painted` what an answer starts from, `measures` are
functions on arrays, `format` is what asks and answers store, `answers` reads it for the page, `findings` are judged
from the rows of all answers, and `drawing/` is what sections are drawn with.
"""
