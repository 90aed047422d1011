"""Buildah, its images and containers in folders of our own, apart from the machine's other images."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Buildah", "Config", "Container", "Layer"]


@dataclass(frozen=True)
class Layer:
    size_bytes: int
    """Unpacked."""
    made_by: str


@dataclass(frozen=True)
class Config:
    command: tuple[str, ...]
    """Entry point and arguments, as the platform starts them."""
    healthcheck: tuple[str, ...]
    environment: dict[str, str]
    labels: dict[str, str]


@dataclass(frozen=True)
class Container:
    """A root file system made from an image. Commands run in it by chroot, with the network and the processes of this
    machine."""

    buildah: Buildah
    id: str
    root: Path

    def command(self, words: Sequence[str], environment: Mapping[str, str], volumes: Sequence[str] = ()) -> list[str]:
        changed = [option for name, value in environment.items() for option in ("--env", f"{name}={value}")]
        mounted = [option for volume in volumes for option in ("--volume", volume)]
        return self.buildah.words("run", "--network", "host", *changed, *mounted, self.id, "--", *words)

    def run(self, *words: str, volumes: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        command = self.command(words, environment, volumes)
        return subprocess.run(
            command, env=self.buildah.environment, capture_output=True, text=True, check=False, timeout=120
        )


class Buildah:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Needs neither a runtime nor rights over namespaces; a caller who can do better sets it.
        self.environment = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs", **os.environ}

    def words(self, *words: str) -> list[str]:
        return ["buildah", "--root", str(self._folder / "storage"), "--runroot", str(self._folder / "run"), *words]

    def __call__(self, *words: str, timeout_s: float = 300) -> str:
        """Run a command of it to its end; what it printed. Raises CalledProcessError."""
        done = subprocess.run(
            self.words(*words), env=self.environment, check=True, text=True, stdout=subprocess.PIPE, timeout=timeout_s
        )
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        found = subprocess.run(
            self.words("inspect", "--type", "image", image), env=self.environment, capture_output=True, check=False
        )
        return found.returncode == 0

    def build(self, context: Path, tag: str, log: Path, arguments: Mapping[str, str], options: Sequence[str]) -> None:
        """Build the Dockerfile of `context` without pulling anything. What it says goes to `log`."""
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        fixed = ("--layers", "--format", "docker", "--pull-never", "--network", "host", "--tag", tag)
        with log.open("ab") as file:
            command = self.words("build", *fixed, *given, *options, str(context))
            subprocess.run(command, env=self.environment, check=True, stdout=file, stderr=file, timeout=1800)

    def config(self, image: str) -> Config:
        config = self._inspect(image)["Docker"]["config"]
        return Config(
            command=(*config["Entrypoint"], *config["Cmd"]),
            healthcheck=tuple(config["Healthcheck"]["Test"]),
            environment=dict(entry.split("=", 1) for entry in config["Env"]),
            labels=dict(config["Labels"]),
        )

    def layers(self, image: str) -> list[Layer]:
        """Return the layers of an image, the lowest first."""
        described = self._inspect(image)
        driver = next(self._folder.glob("storage/*-layers/layers.json"))
        stored = {entry["id"]: entry for entry in json.loads(driver.read_text())}
        images = json.loads(next(self._folder.glob("storage/*-images/images.json")).read_text())
        layer = next(entry["layer"] for entry in images if entry["id"] == described["FromImageID"])
        sizes: list[int] = []
        while layer:
            sizes.insert(0, int(stored[layer].get("diff-size", 0)))
            layer = stored[layer].get("parent")
        made_by = [entry["created_by"] for entry in described["Docker"]["history"] if not entry.get("empty_layer")]
        return [Layer(size, text) for size, text in zip(sizes, made_by, strict=True)]

    @contextlib.contextmanager
    def container(self, image: str) -> Iterator[Container]:
        """Run a new container of the image, and remove it afterwards."""
        name = self("from", "--pull-never", image)
        try:
            yield Container(self, name, Path(self("mount", name)))
        finally:
            self("rm", name)

    def _inspect(self, image: str) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))
        return described
