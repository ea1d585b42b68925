"""Workloads and measurements; nothing here is installed."""
