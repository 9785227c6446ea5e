"""The Spark session, and tasks in its Python workers."""
