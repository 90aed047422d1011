"""Agents and libraries of others, each with a tool that is really run. They have an environment of their own."""
