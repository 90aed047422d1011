"""Holds answers to a grammar: the only connection to llguidance, which is imported at the first constraint."""
