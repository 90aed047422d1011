"""Tests of importing only the C bindings, each in a process where nothing is imported yet."""

from __future__ import annotations

import subprocess
import sys


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_what_the_librarys_python_classes_need_is_not_imported() -> None:
    modules = said("import sys, worker_gguf.llama.bindings; print(*sys.modules)").split()
    assert not {"llama_cpp", "llama_cpp.llama", "jinja2", "diskcache", "numpy"} & set(modules)


def test_a_later_import_of_the_library_is_complete_and_has_the_same_bindings() -> None:
    code = (
        "from worker_gguf.llama import bindings\n"
        "import llama_cpp\n"
        "print(llama_cpp.Llama.__name__, llama_cpp.llama_decode is bindings.llama_cpp.llama_decode)\n"
        "print(llama_cpp.__version__ == bindings.version())"
    )
    assert said(code).split() == ["Llama", "True", "True"]


def test_the_library_may_have_been_imported_before() -> None:
    code = (
        "import llama_cpp\n"
        "from worker_gguf.llama import bindings\n"
        "print(llama_cpp.llama_decode is bindings.llama_cpp.llama_decode, llama_cpp.__name__)"
    )
    assert said(code).split() == ["True", "llama_cpp"]
