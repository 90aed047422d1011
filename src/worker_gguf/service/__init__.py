"""One request: the tokens of its prompt, its generation in the engine, its reply."""
