"""What Streamlit runs on every visit: the pages, and one place for errors."""

from __future__ import annotations

import streamlit as st

from headscope.app.dashboard import look, navigation
from headscope.probes import HeadscopeError

# Drawn here: Streamlit would fetch a named icon from the network.
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 12 12"><g fill="#c8401a">'
    '<rect width="5" height="5" rx="1"/><rect x="7" y="7" width="5" height="5" rx="1"/></g>'
    '<g fill="#5b6b82"><rect x="7" width="5" height="5" rx="1"/><rect y="7" width="5" height="5" rx="1"/></g>'
    "</svg>"
)

st.set_page_config(page_title="headscope", page_icon=ICON, layout="wide")
page = st.navigation(
    [
        st.Page(f"screens/{name}.py", title=title, icon=icon, url_path=name, default=name == "runs")
        for name, (title, icon) in navigation.PAGES.items()
    ],
    position="hidden",
)
look.install()
navigation.bar()
try:
    page.run()
except HeadscopeError as error:
    look.error(str(error))
    st.page_link("screens/runs.py", label="All runs", icon=":material/arrow_back:", query_params={})
