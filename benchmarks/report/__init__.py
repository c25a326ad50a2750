"""Finished runs shown: tables, pictures, pages. Never touches a model."""
