"""Images made, judged and scored."""
