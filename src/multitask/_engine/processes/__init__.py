"""One call in a process of its own: see README.md."""
