# batchr1 on NVIDIA GPUs, upon vLLM's own image: the engine, CUDA and torch are theirs, pinned; only what reads, writes
# and drives is added, without resolving anything anew.
#
#   docker build -t batchr1 .
#   docker run --rm --gpus all --ipc=host -v ~/.cache/huggingface:/home/batchr1/.cache/huggingface \
#       -v "$PWD":/work batchr1 run jobs/math.yaml --variant r1-distill-qwen-7b
#
# The image was not built where this file was written: no image registry could be reached there.
FROM vllm/vllm-openai:v0.26.0

RUN useradd --create-home --uid 1000 --shell /usr/sbin/nologin batchr1
WORKDIR /opt/batchr1
COPY requirements/cuda.txt requirements/
RUN python3 -m pip install --no-cache-dir --no-deps -r requirements/cuda.txt
COPY pyproject.toml README.md ./
COPY batchr1 batchr1
RUN python3 -m pip install --no-cache-dir --no-deps .

USER batchr1
WORKDIR /work
ENV HF_HOME=/home/batchr1/.cache/huggingface VLLM_NO_USAGE_STATS=1
ENTRYPOINT ["batchr1"]
CMD ["--help"]
