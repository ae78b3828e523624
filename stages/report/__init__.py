"""One page from numbers and pictures: `results` reads answers, a module per section arranges them, `page` writes.

    results.<question>  ┐   results     numbers  pictures  taps           page.html
    encoder.<name>      ├─> (rows and ─> faithfulness  invariance  ─> page (page.css  ─> report.html
    decoder, shards     ┘   figures)     trained  words                     page.js)

The page is one file: pictures are data URIs, charts (`charts`) are inline SVG, nothing is asked for from outside.
"""
