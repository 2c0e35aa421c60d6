"""The user study: how often do people take an artificially colored photo for a real one?

`study` imports `colorlib`, never the reverse. It needs the extra `study`
(`pip install -e '.[study]'`) and is part of the clone, beside the library.
"""
