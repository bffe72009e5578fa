"""One module for each file format: how it is recognised and how it is read."""
