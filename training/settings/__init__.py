"""Settings of training, judging and scoring, as the YAML says them."""
