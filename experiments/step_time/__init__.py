"""What a K-FAC step costs in units of a NAdamW step, and where the cost is."""
