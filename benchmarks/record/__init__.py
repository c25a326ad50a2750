"""What a run leaves behind, read and written without a model: its folder, its results, where a sweep stands."""
