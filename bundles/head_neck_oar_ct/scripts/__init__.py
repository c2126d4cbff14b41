"""Code that only this bundle's own train and evaluate configs call; inference needs none of it."""
