"""What a K-FAC step costs, worked out from the dimensions of a model."""
