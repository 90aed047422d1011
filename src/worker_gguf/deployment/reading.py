"""Reads deploy.yaml into a Manifest. Errors are reported with the key and the line."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from worker_gguf.deployment.document import Document, key_path
from worker_gguf.deployment.manifest import Cpu, EnvValue, Gpu, Manifest, Names, Scaling, Volume, Workers
from worker_gguf.deployment.variables import read_env
from worker_gguf.errors import ManifestError

__all__ = ["read_manifest", "read_names"]

Model = TypeVar("Model", bound=BaseModel)

_GROUPS: Final[Mapping[object, type[BaseModel]]] = {
    "cpu": Cpu, "gpu": Gpu, "scaling": Scaling, "volume": Volume, "workers": Workers
}  # fmt: skip

_CACHED_MODEL: Final = "RunPod's API has no cached models. Set one in the console, or use model and volume."
_SCALING: Final = "use scaling.queue_delay_s or scaling.requests_per_worker."
# Names in RunPod's API, SDK and console, with the corresponding key of deploy.yaml.
_ELSEWHERE: Final = {
    "type": "use mode: queue or mode: load_balanced.",
    "types": "use pools, and excluded_types for cards that you do not want.",
    "gpuTypeIds": "RunPod's API takes pools. Use gpu.pools, and gpu.excluded_types for cards that you do not want.",
    "gpuIds": "use gpu.pools.",
    "gpuCount": "use gpu.count.",
    "gpus": "use gpu.",
    "cpus": "use cpu.",
    "computeType": "use gpu or cpu.",
    "cpuFlavorIds": "use cpu.",
    "allowedCudaVersions": "use gpu.cuda_versions.",
    "minCudaVersion": "use gpu.min_cuda.",
    "workersMin": "use workers.min.",
    "workersMax": "use workers.max.",
    "idleTimeout": "use workers.idle_timeout_s.",
    "scalerType": _SCALING,
    "scalerValue": _SCALING,
    "executionTimeoutMs": "use timeout_s.",
    "networkVolumeId": "use volume, which is found by its name.",
    "networkVolumes": "use volume, which is found by its name.",
    "dataCenterIds": "use data_centers.",
    "templateId": "the template is created from this file.",
    "containerDiskInGb": "use container_disk_gb.",
    "imageName": "use image.",
    "dockerStartCmd": "use args.",
    "cached_model": _CACHED_MODEL,
    "modelName": _CACHED_MODEL,
}
# Pydantic's error types. {input} is the text in the file.
_MESSAGES: Final = {
    "float_parsing": "must be a number, not {input!r}.",
    "finite_number": "must be a number, not {input!r}.",
    "greater_than_equal": "must be at least {ge:g}, not {input!r}.",
    "int_parsing": "must be a whole number, not {input!r}.",
    "int_parsing_size": "must be a whole number, not {input!r}.",
    "less_than_equal": "must be at most {le:g}, not {input!r}.",
    "literal_error": "must be {expected}, not {input!r}.",
    "model_type": "must be a group of `key: value` lines.",
    "string_too_short": "must not be empty.",
    "string_type": "must be a single value.",
    "too_short": "must have at least one entry.",
    "tuple_type": "must be a list, such as [one, two].",
    "value_error": "{error}",
}


def read_manifest(path: Path, environ: Mapping[str, str], *, image: str | None = None) -> Manifest:
    """Read the whole file. Raises a ManifestError with a line for each mistake.

    References such as ${NAME} are looked up in `environ`, which has names in lower case (environment.given). `image`
    has priority over the image in the file.
    """
    document = Document.read(path)
    values = document.values | ({"image": image} if image else {})
    faults: list[str] = []
    env: Mapping[str, EnvValue] = {}
    try:
        env = read_env(document, environ)
    except ManifestError as error:
        faults.append(error.message)
    try:
        manifest = _validate(Manifest, document, values | {"env": env})
    except ManifestError as error:
        faults.append(error.message)
    if faults:
        raise ManifestError("\n".join(faults))
    return manifest


def read_names(path: Path) -> Names:
    """Read only the names. Raises ManifestError."""
    document = Document.read(path)
    return _validate(Names, document, document.values)


def _validate(model: type[Model], document: Document, values: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["type"] != "default_factory_not_called"]
    # Report a misspelt key before the missing key that was meant.
    faults.sort(key=lambda fault: (fault["type"] == "missing", document.lines.get(key_path(fault["loc"]), 0)))
    raise ManifestError("\n".join(_error(document, fault).message for fault in faults))


def _error(document: Document, fault: Mapping[str, Any]) -> ManifestError:
    loc = fault["loc"]
    if fault["type"] == "missing":
        message = f"is missing: {_model(loc).model_fields[loc[-1]].description}"
    elif fault["type"] == "extra_forbidden":
        message = f"is not a key of this file{_suggestion(loc)}"
    else:
        context = {"input": fault["input"], **fault.get("ctx", {})}
        message = _MESSAGES.get(fault["type"], fault["msg"]).format(**context)
    path = key_path(loc)
    if not loc:  # a rule between keys: its message starts with one of them
        path, _, message = message.partition(" ")
    return document.error(path, message)


def _model(loc: tuple[str | int, ...]) -> type[BaseModel]:
    """Return the model that has the last key of `loc`."""
    return _GROUPS[loc[0]] if len(loc) > 1 else Manifest


def _suggestion(loc: tuple[str | int, ...]) -> str:
    key, known = str(loc[-1]), sorted(_model(loc).model_fields)
    if key in _ELSEWHERE:
        return f": {_ELSEWHERE[key]}"
    near = get_close_matches(key, known, n=1)
    return f". Did you mean {near[0]}?" if near else f". Known keys: {', '.join(known)}."
