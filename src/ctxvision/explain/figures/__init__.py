"""Figures of what a network looked at: drawn from arrays, in the colours of the page and for print."""
