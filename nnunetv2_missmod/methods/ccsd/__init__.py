"""CCSD."""
