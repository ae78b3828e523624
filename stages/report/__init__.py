"""One page from numbers and pictures: `results` reads the answers, `view` arranges them, `charts` draws, `page` writes.

    results.<question>  (results.parquet, figures/*)  ┐
    decoder, readers, probes, encoder.<name>, shards  ┴─> results ─> view ─> page.html + page.css + page.js ─> report.html

The page is one file: pictures are data URIs, charts are inline SVG, nothing is asked for from outside.
"""
