"""What is kept between calls: replies, artifacts, runs, notes, checkpoints."""
