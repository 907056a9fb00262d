"""Tests of the metadata engines and registries."""
