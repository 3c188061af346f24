"""What every database looks like: migration lines and the runner."""
