"""One script per page, as Streamlit wants them; `/name` is `name.py`."""
