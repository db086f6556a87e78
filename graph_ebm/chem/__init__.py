"""Chemistry behind the molecular space: reading, isolating, valence and writing. RDKit stays inside this folder."""
