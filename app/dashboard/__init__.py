"""The dashboard: it reads run folders and shows what report and notebook show, to be explored.

It computes nothing of its own. `screens/` holds one short script per page, as Streamlit wants
them; what they show is made by the modules here, one per page.
"""
