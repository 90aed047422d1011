"""The smallest start: load, context and one decode with the low-level API. Prints its seconds as JSON."""

import ctypes
import json
import sys
import time

import llama_cpp

# llama.h: enum llama_load_mode
LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1, "direct": 4}


def _ignore_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    pass


# Kept here: llama.cpp calls it for as long as the process lives.
IGNORE_LOG = llama_cpp.llama_log_callback(_ignore_log)


def main() -> None:
    path, mode, n_ctx, n_threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    llama_cpp.llama_log_set(IGNORE_LOG, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    begun = time.perf_counter()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model_params.load_mode = LOAD_MODES[mode]
    model_params.use_extra_bufts = False  # as the worker loads on x86
    model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = n_ctx, 512, 512, 1
    params.n_threads = params.n_threads_batch = n_threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not model or not context:
        raise SystemExit(f"llama.cpp cannot load {path}")
    token = (llama_cpp.llama_token * 1)(llama_cpp.llama_vocab_bos(llama_cpp.llama_model_get_vocab(model)))
    if code := llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(token, 1)):
        raise SystemExit(f"llama_decode answered {code}")
    llama_cpp.llama_synchronize(context)
    print(json.dumps({"native_s": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
