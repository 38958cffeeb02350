"""Packages one by one, so that nothing is shipped by accident; data files; extras."""
from setuptools import setup

setup(
    name="minigrad-gpt",
    version="0.1.0",
    description="GPT-1 and GPT-2 without a framework: every gradient by hand, on NumPy or CuPy",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="MIT",
    classifiers=["Intended Audience :: Education", "Topic :: Scientific/Engineering :: Artificial Intelligence",
                 "Operating System :: POSIX :: Linux",
                 # all tests run on 3.11 and 3.14, a part on 3.13; 3.10 and 3.12 are what mypy and vermin say they are
                 *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13, 14))],
    python_requires=">=3.10",
    packages=["minigrad", "minigrad.ops", "minigrad.fused", "minigrad.emulator", "nn", "gpt", "tok", "train",
              "train.configs", "bench"],
    package_data={"minigrad.fused": ["*.cu", "*.cuh"], "minigrad.emulator": ["*.h", "*.cuh", "*.cpp"],
                  "train.configs": ["*.yaml"]},
    install_requires=["numpy>=2.1", "numba>=0.61", "regex", "PyYAML", "safetensors", "tqdm", "matplotlib", "ml_dtypes"],
    extras_require={
        "cuda12": ["cupy-cuda12x[ctk]>=14"],
        "cuda13": ["cupy-cuda13x[ctk]>=14"],
        "hub": ["huggingface_hub"],
        "tensorboard": ["tensorboardX"],
        "wiki": ["mwparserfromhell"],
        "parquet": ["pyarrow"],
        "serve": ["starlette", "uvicorn"],
        "mpi": ["mpi4py", "mpich"],
        "docs": ["pdoc"],
        "test": ["pytest", "pytest-xdist", "hypothesis", "ruff", "tiktoken", "tokenizers", "tensorboardX",
                 "mwparserfromhell; python_version < '3.14'",     # no wheel for more, and its tests are skipped then
                 "pyarrow", "sacrebleu", "starlette", "uvicorn", "httpx", "mpi4py", "mpich",
                 "nbclient", "nbformat", "ipykernel", "mypy>=2", "setuptools>=70.1"],
        "bench": ["torch", "tiktoken", "tokenizers", "transformers"],
    },
)
