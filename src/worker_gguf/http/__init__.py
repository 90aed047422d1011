"""The HTTP door: Starlette on uvicorn."""
