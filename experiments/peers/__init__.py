"""What K-FAC costs here and in other libraries, timed in turn in one process."""
