"""PostgreSQL's side of a comparison, and one file for each store it is compared with."""
