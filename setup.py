"""Packaging of hbnn_larq: three source folders, one import name.

`zoo/` and `training/` stand at the top level of the repository but are imported as
`hbnn_larq.zoo` and `hbnn_larq.training`. The list of packages is derived from the folders,
because a sub-package that is missing from it still imports from an editable install and is
absent from the wheel.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "hbnn_larq": "hbnn_larq",
    "hbnn_larq.zoo": "zoo",
    "hbnn_larq.training": "training",
}
PACKAGES = [
    ".".join([name, *sub])
    for name, folder in FOLDERS.items()
    for sub in [[], *([package] for package in find_packages(folder))]
]

# The one version set in which training, zoo, search and converter work together:
# larq-zoo 2.4 and the converter pin protobuf below 3.21, keras-tuner rejects tf_keras models
# (so TensorFlow stays below 2.16), and TensorFlow 2.15 was built against NumPy 1.
CORE = [
    "tensorflow>=2.15,<2.16",
    "larq>=0.14,<0.15",
    "larq-zoo>=2.4,<2.5",
    "zookeeper>=1.4,<1.5",
    "numpy>=1.24,<2",
    "protobuf>=3.20.3,<3.21",
    "scikit-learn>=1.3",
    "matplotlib>=3.7",
    "pillow>=9.2",
]
EXTRAS = {
    "convert": ["larq-compute-engine>=0.16,<0.17"],
    "search": ["keras-tuner>=1.4.8,<1.5"],
    "data": ["tensorflow-datasets>=4.8.3,<4.9", "dill"],
    "test": [
        "pytest>=7.4",
        "pytest-timeout>=2.2",
        "pytest-xdist>=3.5",
        "mpmath>=1.3",
        "ruff==0.17.*",
        "mypy>=1.8",
    ],
    "bench": ["torch>=2.2", "geoopt>=0.5"],
    "docs": ["mkdocs-material>=9.5"],
}
EXTRAS["all"] = sorted({*EXTRAS["convert"], *EXTRAS["search"], *EXTRAS["data"]})

with open("README.md", encoding="utf-8") as readme:
    LONG_DESCRIPTION = readme.read()

setup(
    name="hbnn_larq",
    version="0.1.0",
    description="Hyperbolic binary neural networks on Larq: train, verify, ship with LCE",
    long_description=LONG_DESCRIPTION,
    long_description_content_type="text/markdown",
    author="The hbnn_larq authors",
    license="Apache-2.0",
    python_requires=">=3.10,<3.12",
    package_dir=FOLDERS,
    packages=PACKAGES,
    package_data={
        "hbnn_larq": ["py.typed"],
        "hbnn_larq.zoo": ["weights/*"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hbnn = hbnn_larq.training.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
