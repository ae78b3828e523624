"""What is measured and printed, never asserted."""
