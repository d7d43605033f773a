"""Packaging; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'__version__ = "(.+)"', Path("nnunetv2_missmod/__init__.py").read_text(encoding="utf-8"))
assert VERSION is not None
README = Path("README.md").read_text(encoding="utf-8")
LINKS_WITHIN = re.compile(r"!?\[([^\]]*)\]\((?!https?://)[^)]*\)")  # an index page has no files beside it

setup(
    name="nnunetv2_missmod",
    version=VERSION[1],
    description="nnU-Net v2 trainers for segmentation when modalities are missing",
    long_description=LINKS_WITHIN.sub(r"\1", README),
    long_description_content_type="text/markdown",
    author="The developers of nnunetv2_missmod",
    keywords=[
        "nnU-Net",
        "missing modalities",
        "incomplete multi-modal learning",
        "medical image segmentation",
        "brain tumor segmentation",
        "MRI",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Healthcare Industry",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    project_urls={
        "nnU-Net": "https://github.com/MIC-DKFZ/nnUNet",
    },
    license="Apache-2.0",
    license_files=["LICENSE", "nnunetv2_missmod/report/assets/niivue.LICENSE.txt"],
    python_requires=">=3.10",
    # The doors and the plan fragments live at the top of the repository and are installed inside the package, so that
    # they have a path on every kind of install.
    packages=[*find_packages(include=["nnunetv2_missmod*"]), "nnunetv2_missmod.trainers", "nnunetv2_missmod.plans"],
    package_dir={"nnunetv2_missmod.trainers": "trainers", "nnunetv2_missmod.plans": "plans"},
    package_data={
        "nnunetv2_missmod": ["py.typed"],
        "nnunetv2_missmod.plans": ["*.json", "README.md"],
        "nnunetv2_missmod.report": ["templates/*", "assets/*"],
        "nnunetv2_missmod.datasets.phantom": ["model/*.json", "model/fold_0/*.pth"],
    },
    install_requires=[
        "nnunetv2>=2.8.0,<3",
        "torch>=2.6",
        "torchvision",
        "batchgenerators",
        "batchgeneratorsv2",
        "dynamic-network-architectures",
        "SimpleITK",
        "nibabel",
        "numpy",
        "scipy",
        "scikit-image",
        "scikit-learn>=1.1",
        "monai",
        "pandas",
        "pyarrow",
        "matplotlib>=3.8",
        "seaborn",
        "jinja2",
        "filelock",
        "rich",
    ],
    extras_require={
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "pandas-stubs",
            "markdown-it-py",
            "ipykernel",
            "nbclient",
            "nbformat",
            "mkdocs>=1.6,<2",
            "mkdocs-material",
            "mkdocs-same-dir",
            "mkdocstrings[python]",
        ]
    },
    entry_points={"console_scripts": ["missmod = nnunetv2_missmod.cli.main:main"]},
)
