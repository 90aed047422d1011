"""The one seam to C: nothing else in the package imports llama_cpp or ctypes, and no pointer leaves this folder."""
