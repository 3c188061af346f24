"""Generated attacks: tenant B against every row of tenant A, on whatever tables there are."""
