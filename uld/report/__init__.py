"""The page that a person looks at after a run: landmarks over images, curves, tables. It reads artifacts only."""
