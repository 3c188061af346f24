"""Blocks, transactions, receipts and logs of public chains."""
