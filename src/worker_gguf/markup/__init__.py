"""The markup of a model's answers: how it writes reasoning and tool calls.

Found from the chat template, parsed while an answer streams, and turned into a grammar that holds an answer to it.
"""
