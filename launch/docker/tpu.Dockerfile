# For TPU hosts, on GKE (launch/gke.sh). From the project's folder:
#   docker build -f launch/docker/tpu.Dockerfile -t IMAGE . && docker push IMAGE
#   docker run IMAGE --help            what the image runs: posttrain_jax.train
FROM python:3.11.13-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /app

# What changes seldom comes first: its layer is kept.
COPY requirements.txt ./
RUN pip install -r requirements.txt 'jax[tpu]' gcsfs google-cloud-storage

COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY posttrain_jax ./posttrain_jax
RUN pip install -e '.[tpu,gcs]'

ENTRYPOINT ["python", "-m", "posttrain_jax.train"]
