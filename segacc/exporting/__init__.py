"""Export of trained networks to files of other runtimes, with a proof of what they predict."""
