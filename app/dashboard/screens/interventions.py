"""The page `/interventions`."""

import streamlit as st

with st.spinner("Loading torch"):  # the first visit only
    from headscope.app.dashboard import interventions

interventions.show()
