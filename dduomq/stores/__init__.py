"""Adapters of the metadata port: where the cluster's facts are kept."""
