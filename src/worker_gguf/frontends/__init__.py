"""The two doors of the worker: HTTP (FastAPI on uvicorn) and RunPod's queue (its SDK). Both call a `Backend`."""
