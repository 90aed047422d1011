"""Answers one request with a model: tokenises its prompt, submits it to the engine and builds the reply."""
