"""Code that only this bundle's training and evaluation call; inference needs none of it."""
