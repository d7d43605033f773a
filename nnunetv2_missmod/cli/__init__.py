"""The command line: one module per verb, its flags and its call."""
