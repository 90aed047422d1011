"""A worker process that only fetches a model: `python -m tests.store.fetcher '{"cache": …}'`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from worker_gguf.errors import WorkerError
from worker_gguf.store import ModelRef, ensure
from worker_gguf.store.tuning import Tuning


def main() -> int:
    given = json.loads(sys.argv[1])
    try:
        model = ensure(
            ModelRef.parse(given["ref"]),
            [Path(given["cache"])],
            endpoint=given["endpoint"],
            tuning=Tuning(**given["tuning"]),
        )
    except WorkerError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(model.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
