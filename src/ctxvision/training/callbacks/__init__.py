"""Lightning callbacks that look after a run; each works in anybody's `Trainer`."""
