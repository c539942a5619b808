"""A training as one job, and the words in which a cluster takes it. Standard library only: a login node has no more."""
