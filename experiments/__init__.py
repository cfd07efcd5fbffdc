"""One runnable module for each figure, table or measurement."""
