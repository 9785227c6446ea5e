"""The Spark shell of training and scoring."""
