"""The survey: a page in the browser (`static/`) and the server behind it."""
