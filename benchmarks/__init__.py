"""The meter: answer sets, judges, metrics, and their record."""
