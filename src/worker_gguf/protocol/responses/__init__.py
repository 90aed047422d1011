"""The dialect of OpenAI's Responses API, without state: each request has the whole conversation."""
