"""The HTTP interface: Starlette on uvicorn."""
