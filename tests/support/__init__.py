"""What tests share: builders of files and models, harnesses for kernels, random cases."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
