"""The two doors of the worker: HTTP (Starlette on uvicorn) and RunPod's queue (its SDK). Both call a `Backend`."""
