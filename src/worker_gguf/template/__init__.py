"""Renders messages to prompt text with the model's own template, in a sandbox."""
