"""The user study: how often do people take a photo colored by a method for a real one?

`study` imports `colorlib`, never the other way round. It needs the extra of its name
(`pip install -e '.[study]'`) and lies in the clone, beside the library.
"""
