"""The only connection to C: no other package imports llama_cpp or ctypes, and no pointer leaves this one."""
