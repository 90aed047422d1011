# The variants of the image: `docker buildx bake` builds cu118, `docker buildx bake all` every one (docs/image.md).
#
# A variant is a base image and the index of wheels that fits its CUDA. Every base here brings Python 3.11.

variable "IMAGE" {
  default = "worker-gguf"
}

variable "VERSION" {
  default = "dev"
}

variable "REVISION" {
  default = ""
}

variable "CREATED" {
  default = ""
}

variable "SOURCE" {
  default = ""
}

variable "MODEL" {
  default = "DavidAU/Llama-3.2-8X3B-MOE-Dark-Champion-Instruct-uncensored-abliterated-18.4B-GGUF"
}

variable "WHEELS" {
  default = "https://abetlen.github.io/llama-cpp-python/whl"
}

group "default" {
  targets = ["cu118"]
}

group "all" {
  targets = ["cu118", "cu124", "cu130", "cpu"]
}

target "_worker" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "worker"
  platforms  = ["linux/amd64"]
  args = {
    MODEL    = MODEL
    VERSION  = VERSION
    REVISION = REVISION
    CREATED  = CREATED
    SOURCE   = SOURCE
  }
}

# Pascal to Ada: P40, V100, T4, A4000 to A100, RTX 3090, RTX 4090, L4, L40S.
target "cu118" {
  inherits = ["_worker"]
  tags     = ["${IMAGE}:${VERSION}", "${IMAGE}:${VERSION}-cu118"]
  args = {
    BASE_IMAGE        = "runpod/base:0.6.3-cuda11.8.0"
    LLAMA_WHEEL_INDEX = "${WHEELS}/cu118"
  }
}

# Hopper too: H100, H200. Needs a driver for CUDA 12.4.
target "cu124" {
  inherits = ["_worker"]
  tags     = ["${IMAGE}:${VERSION}-cu124"]
  args = {
    BASE_IMAGE        = "runpod/base:0.7.0-cuda1241-ubuntu2204"
    LLAMA_WHEEL_INDEX = "${WHEELS}/cu124"
  }
}

# Blackwell: RTX 5090, RTX PRO 6000, B200. Needs a driver for CUDA 13.0.
target "cu130" {
  inherits = ["_worker"]
  tags     = ["${IMAGE}:${VERSION}-cu130"]
  args = {
    BASE_IMAGE        = "runpod/base:1.0.3-cuda1300-ubuntu2404"
    LLAMA_WHEEL_INDEX = "${WHEELS}/cu130"
  }
}

# No GPU: for trying things out, and for RunPod's CPU workers.
target "cpu" {
  inherits = ["_worker"]
  tags     = ["${IMAGE}:${VERSION}-cpu"]
  args = {
    BASE_IMAGE        = "python:3.11-slim-bookworm"
    LLAMA_WHEEL_INDEX = "${WHEELS}/cpu"
  }
}

# The model in the image: MODEL=org/repo:QUANT HF_TOKEN=... docker buildx bake baked
target "baked" {
  inherits = ["cu118"]
  tags     = ["${IMAGE}:${VERSION}-baked"]
  args = {
    BAKE_MODEL = "1"
  }
  secret = ["id=HF_TOKEN,env=HF_TOKEN"]
}
