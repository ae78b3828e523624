"""Questions: what to paint, and what to compute from it.

A question asks (`ask`: conditions, its own cached step), has them painted (`samples`) and the paintings embedded again
(`embeddings`), and answers with rows and figures (`answer`). `sources` is the ask that kept and faithfulness share;
`measures` are the functions on arrays, `verdicts` the rules from rows to words, `format` what an answer looks like.
"""
