# For NVIDIA GPUs. CUDA's libraries come with jax's wheels; the machine has the
# driver and the NVIDIA container toolkit. From the project's folder:
#   docker build -f launch/docker/cuda.Dockerfile -t IMAGE .
#   docker run --gpus all --shm-size 8g -v "$PWD/runs:/app/runs" IMAGE \
#       --config configs/rl.py:recipe=grpo --workdir runs/grpo
FROM python:3.11.13-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /app

# What changes seldom comes first: its layer is kept.
COPY requirements.txt ./
RUN pip install -r requirements.txt 'jax[cuda12]'

COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY posttrain_jax ./posttrain_jax
RUN pip install -e '.[cuda]'

ENTRYPOINT ["python", "-m", "posttrain_jax.train"]
