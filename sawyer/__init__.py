"""Sawyer: the open workbench for RLHF."""

__version__ = "0.1.0"
