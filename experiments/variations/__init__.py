"""Steps to the target of K-FAC when one thing differs from a base point."""
