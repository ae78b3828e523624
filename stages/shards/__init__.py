"""Images become tars: a source is listed, its images are judged and split, and packed in webdataset's layout.

`scenes` draws images whose every attribute is known; `sources` knows where images come from and how each is asked for
its bytes; `stage.Listing` looks at every image once and writes down what it is; `format` writes and reads the tars and
their index; `stage.Shards` packs what the listing accepts.
"""
