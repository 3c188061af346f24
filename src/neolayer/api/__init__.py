"""The HTTP server: health, readiness and metrics; later rooms hang their routes here."""
