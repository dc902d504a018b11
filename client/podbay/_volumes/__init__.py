"""The files of models on the user's disk. Everything here blocks, and speaks to no service."""
