"""What run.py's tasks do, one file a task."""
