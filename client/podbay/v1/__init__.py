"""The wire: generated from protos/podbay/v1 by `make gen`. Do not edit."""
