"""Drivers: what starts replicas, lists them and stops them. One contract, several kinds."""
