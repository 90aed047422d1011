"""The dialect of OpenAI's API: the forms of its answers, streams and errors."""
