# The trainer on NVIDIA's PyTorch image, whose torch, Transformer Engine and apex are used as they are.
#
#   docker build -t megatron_ettin .
#   docker run --rm --gpus all --ipc host --ulimit memlock=-1 -v "$PWD/data:/data" megatron_ettin \
#     examples/pretrain_one_node.sh examples/configs/nano_encoder.yaml /data/c_text_document /data/tokenizer /data/run
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:25.12-py3
FROM ${BASE_IMAGE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/megatron_ettin
COPY . .

# Our pins live in an environment of their own above the image's packages, which its constraint file would hold fast.
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:${PATH} PIP_CONSTRAINT=""
RUN python3 -m venv --system-site-packages "${VIRTUAL_ENV}" \
 && grep -v '^torch==' constraints.txt > /tmp/constraints.txt \
 && python -m pip install --no-cache-dir --editable . --constraint /tmp/constraints.txt \
 && rm /tmp/constraints.txt

RUN useradd --create-home --shell /bin/bash ettin
USER ettin

CMD ["python", "-m", "megatron_ettin.pretrain", "--help"]
