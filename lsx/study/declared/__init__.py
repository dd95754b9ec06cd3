"""A study as data: its file, its sections, its search space, and whether all of that makes sense."""
