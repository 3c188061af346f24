"""Long-running processes that `up` supervises."""
