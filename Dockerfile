# The trainer on NVIDIA's PyTorch image, whose torch, Transformer Engine and apex are used as they are.
#
#   docker build -t megatron_ettin .
#   docker run --rm --gpus all --ipc host --ulimit memlock=-1 -v "$PWD/data:/data" megatron_ettin \
#     examples/pretrain_encoder.sh 150m /data/corpus_text_document /data/tokenizer /data/run
#
#   docker build --target check .    also lints and runs the tests that need no GPU, and fails where they fail
#
# 25.12 has CUDA 13.1, Python 3.12, torch 2.10.0a0 and Transformer Engine 2.10.0; megatron-core takes 2.9 to 2.11.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:25.12-py3
FROM ${BASE_IMAGE} AS trainer

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

RUN useradd --uid 10001 --create-home --shell /bin/bash ettin \
 && install --directory --owner ettin --group ettin /opt/megatron_ettin /opt/venv
WORKDIR /opt/megatron_ettin
COPY --chown=ettin:ettin . .
USER 10001

# Our pins live in an environment of their own above the image's packages, which the image's constraint file would hold
# fast. What is compiled against the image's CUDA stays the image's.
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:${PATH} PIP_CONSTRAINT=""
RUN python3 -m venv --system-site-packages "${VIRTUAL_ENV}" \
 && grep -v '^torch==' constraints.txt > /tmp/constraints.txt \
 && torch="$(python -c 'import torch; print(torch.__version__)')" \
 && python -m pip install --no-cache-dir --editable . --constraint /tmp/constraints.txt \
 && rm /tmp/constraints.txt \
 && test "${torch}" = "$(python -c 'import torch; print(torch.__version__)')"

CMD ["python", "tools/doctor.py"]


FROM trainer AS check
# make takes an environment as installed when this file is newer than setup.py and constraints.txt.
RUN grep -v '^torch==' constraints.txt > /tmp/constraints.txt \
 && python -m pip install --no-cache-dir --editable '.[dev]' --constraint /tmp/constraints.txt \
 && touch "${VIRTUAL_ENV}/.installed" \
 && make lint test VENV="${VIRTUAL_ENV}"


FROM trainer
