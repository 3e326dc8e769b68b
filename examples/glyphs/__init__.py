"""A 1,000-class task that needs no download: the characters of the fonts inside the matplotlib wheel."""
