"""What two or more services share, one concern a file. It imports no service."""
