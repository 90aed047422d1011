"""Checks JSON Schemas: what an answer can be held to, and what is refused or left out."""
