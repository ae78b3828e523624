"""Images become tars in webdataset's layout, with an index that says where in which tar each image stands.

`stage.Shards` packs what the listing accepts; `format` writes the tars.
"""
