"""VectorCare's side, played on one's own machine."""
