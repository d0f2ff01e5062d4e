"""What lies beside a segment: the backlog, dead letters, side segments."""
