"""Pictures of coloured shapes, talk about them, and a small vision-language model that has seen many."""
