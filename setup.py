"""Builds the cffi extension from firmware/lib: the host runs the same C as the boards."""

from setuptools import setup

setup(cffi_modules=["host/quantfl/core/_build.py:ffibuilder"])
