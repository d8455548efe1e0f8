"""Scores of a table row, from cached predictions only: no network is loaded. Formulas: docs/evaluation.md."""
