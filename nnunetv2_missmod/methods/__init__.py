"""One folder per method, each with the same files; methods never import each other."""
