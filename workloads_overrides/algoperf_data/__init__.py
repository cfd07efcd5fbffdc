"""Writes the committed molecules and images in the formats that AlgoPerf reads."""
