"""What an operator must know: one place to look into every database."""
