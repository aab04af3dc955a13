"""Clips as a streaming dataset: streams, shards, the dataset in canonical order, and its loader."""
