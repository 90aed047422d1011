"""The dialect of llama-server's own routes: completions, gaps, tokens, templates, and the properties of a model."""
