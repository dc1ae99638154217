"""Packages: from a full int8 .tflite to the file that boards run, and back to an improved .tflite."""
