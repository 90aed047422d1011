"""One request: its prompt's tokens, its way through the engine, its reply."""
