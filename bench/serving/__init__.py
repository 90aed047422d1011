"""Measurements of what a running server does for its users, from outside, over HTTP: one module for each part."""
