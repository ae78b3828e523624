"""Images that are given, and what a finished study paints from their vectors."""
