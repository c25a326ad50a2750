"""Questions asked of finished runs, one file a question."""
