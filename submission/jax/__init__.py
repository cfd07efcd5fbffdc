"""The JAX side of the submission; file by file the mirror of `pytorch`."""
