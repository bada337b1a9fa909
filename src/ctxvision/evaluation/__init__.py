"""How good a trained network is on a data set: its numbers, by class and by image."""
