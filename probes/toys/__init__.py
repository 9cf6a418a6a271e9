"""Small language models that the project trains itself, where the truth has to be known."""
