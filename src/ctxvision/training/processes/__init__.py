"""The processes of a run: their launcher, their rendezvous, and the all-reduces by which they agree."""
