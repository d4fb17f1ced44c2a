"""Single files of weights: reading them safely, and the names of mmsegmentation's tensors."""
