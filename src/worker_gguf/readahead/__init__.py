"""Reads files into the page cache before the load needs them."""
