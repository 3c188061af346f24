"""One file per subject: each measures us, a peer or a floor, and the ratio, in one run."""
