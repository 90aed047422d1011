"""Reads files into the page cache before they are needed."""
