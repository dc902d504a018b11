"""The process that fetches the files of one model, and what it knows of hubs and of git."""
