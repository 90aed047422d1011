"""Renders messages to prompt text with the model's chat template, in a sandbox."""
