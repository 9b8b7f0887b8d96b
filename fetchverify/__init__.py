"""Resumable, verified downloads from the Hugging Face Hub."""

__version__ = "0.1.0"
