"""The contracts: a file each for what crosses stages, with its reader and its writer (docs/artifacts.md)."""
