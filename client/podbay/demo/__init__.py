"""What `podbay demo` runs."""
