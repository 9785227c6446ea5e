"""From behaviour events to sequences: ingest, rollups, tiers, aggregates, outcomes. Knows nothing of TensorFlow."""
