# batchr1 on NVIDIA GPUs, upon vLLM's own image: the engine, CUDA and torch are theirs, pinned; only what reads, writes
# and drives is added, without resolving anything anew.
#
#   docker build -t batchr1 .
#   docker run --rm --gpus all --shm-size 8g -v batchr1-cache:/home/batchr1/.cache/huggingface -v "$PWD":/work \
#       -e BATCHR1_OUTPUT=out/math-r1-distill-qwen-7b batchr1 run jobs/math.yaml --variant r1-distill-qwen-7b --grace 60s
#
# `docker stop --time 90` saves and leaves with exit code 75, within --grace. The user is 1000: let the folder be
# that user's, or add --user "$(id -u)" -e HOME=/work -e HF_HOME=/work/.cache. Services: docs/deploy/docker-compose.yml.
#
# Checked: hadolint 2.15; that the build context holds what is copied, no more (tests/docs/test_deploy.py). By hand, once: pip
# install from that context, the health check on a real output, SIGTERM through tini. Not built: no image registry could be
# reached where this was written. So the tag has no digest either; pin what you have pulled with
# vllm/vllm-openai:v0.26.0@sha256:… (docker buildx imagetools inspect vllm/vllm-openai:v0.26.0).
FROM vllm/vllm-openai:v0.26.0

USER 0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends 'tini=0.19.*' \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/batchr1
COPY requirements/cuda.txt requirements/
RUN python3 -m pip install --no-cache-dir --no-deps -r requirements/cuda.txt
COPY pyproject.toml README.md ./
COPY batchr1 batchr1
RUN python3 -m pip install --no-cache-dir --no-deps .

# Ubuntu's newer images have a user 1000 of their own, so this one may share the number.
RUN useradd --non-unique --uid 1000 --create-home --shell /usr/sbin/nologin batchr1 \
    && install --directory --owner=1000 /work /home/batchr1/.cache /home/batchr1/.cache/huggingface
USER 1000
WORKDIR /work
ENV HOME=/home/batchr1 HF_HOME=/home/batchr1/.cache/huggingface VLLM_NO_USAGE_STATS=1
VOLUME /home/batchr1/.cache/huggingface

# Of the output that BATCHR1_OUTPUT names; without it nothing is watched. Half an hour for a large model to load.
HEALTHCHECK --interval=60s --timeout=30s --start-period=30m --retries=3 \
    CMD ["sh", "-c", "[ -z \"$BATCHR1_OUTPUT\" ] || exec batchr1 status \"$BATCHR1_OUTPUT\" --health"]

# tini takes SIGTERM to batchr1, and reaps what its workers leave behind.
ENTRYPOINT ["tini", "--", "batchr1"]
CMD ["--help"]
