"""Ollama's API: chat and generate, streamed as lines of JSON, and the lists of models."""
