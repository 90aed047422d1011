# syntax=docker/dockerfile:1.7
#
# The worker on RunPod's base image. docs/image.md has the arguments, docker-bake.hcl the variants, image/ the scripts.
# Nothing here needs a GPU, and with a wheel index nothing is compiled.

ARG BASE_IMAGE=runpod/base:0.6.3-cuda11.8.0
ARG MODEL=DavidAU/Llama-3.2-8X3B-MOE-Dark-Champion-Instruct-uncensored-abliterated-18.4B-GGUF

# Three folders come of it, from what changes least to what changes most, each a layer of the image.
FROM ${BASE_IMAGE} AS build
ENV PIP_CACHE_DIR=/root/.cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/build.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3.11 -m venv /opt/tools && python3.11 -m venv --without-pip /opt/worker && \
    /opt/tools/bin/pip install --no-deps --require-hashes --requirement build.txt
COPY requirements/worker.txt ./
COPY image/compile image/install-llama image/install-worker image/install-own /usr/local/bin/

ARG LLAMA_WHEEL_INDEX=https://abetlen.github.io/llama-cpp-python/whl/cu118
ARG CUDA_ARCHITECTURES=""
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    install-llama && compile /opt/llama

RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    install-worker && compile /opt/worker

COPY pyproject.toml LICENSE ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    install-own && compile /opt/own

# The model, if it is to lie in the image: in the Hub's own layout, fetched by the worker's own store.
FROM build AS model
ARG MODEL
ARG BAKE_MODEL=""
ARG HF_ENDPOINT="https://huggingface.co"
RUN --mount=type=secret,id=HF_TOKEN \
    mkdir /models && if [ -n "$BAKE_MODEL" ]; then \
    HF_TOKEN="$(cat /run/secrets/HF_TOKEN 2>/dev/null || true)" PYTHONPATH=/opt/own/lib/python3.11/site-packages \
    /opt/worker/bin/python -m worker_gguf fetch "$MODEL" --to /models; fi

FROM ${BASE_IMAGE} AS worker
COPY image/prepare /tmp/prepare
RUN /tmp/prepare && rm /tmp/prepare
COPY --from=build /opt/llama /opt/worker
COPY --from=build /opt/worker /opt/worker
COPY --from=model /models /models
COPY --from=build /opt/own /opt/worker
COPY image/entrypoint /usr/local/bin/worker-gguf-entrypoint

ARG MODEL
ARG BAKE_MODEL=""
ENV PATH=/opt/worker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MODEL=${MODEL} \
    MODEL_BAKED_DIR=/models \
    HF_HOME=/var/cache/worker/huggingface \
    HUGGINGFACE_HUB_CACHE=/var/cache/worker/huggingface/hub \
    HF_HUB_OFFLINE=${BAKE_MODEL:+1} \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_HUB_ENABLE_HF_TRANSFER=0 \
    RUNPOD_DEBUG_LEVEL=INFO \
    RUNPOD_INIT_TIMEOUT=1800
WORKDIR /home/worker
EXPOSE 80 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30m CMD ["worker-gguf", "ping"]
ENTRYPOINT ["worker-gguf-entrypoint"]
CMD ["worker-gguf", "serve"]

# Last: they change with every commit, and cost no layer.
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
ARG SOURCE=""
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="worker-gguf" \
      org.opencontainers.image.description="Any GGUF model on RunPod Serverless, behind an OpenAI-compatible API" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
