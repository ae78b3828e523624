"""Where images come from, and what is known of them.

`sources` has the settings of each source and how its images are named, counted, labelled and fetched; `scenes` draws
images whose every attribute is known, and `collage` makes them of photographs; `tars`, `parquet` and `cifar` read files
that hold many images each (`files`); `columns` and `labels` make attributes of a dataset's own columns.
"""
