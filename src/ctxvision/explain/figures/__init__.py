"""Figures of explanations: drawn from arrays, in the colours of the page and for print."""
