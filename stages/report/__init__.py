"""One page from the sections of all answers (`stages.questions`), from findings, and from what was trained.

    results.<question> ─> sections ┐
    encoder.<name>, decoder        ├─> page (page.html, page.css, page.js) ─> report.html
    shards           ─> trained    ┘

The page is one file: pictures are data URIs, charts are inline SVG, nothing is asked for from outside.
"""
