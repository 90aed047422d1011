"""Agents and libraries that others wrote, each with a tool that is really run. They have an environment of their own."""
