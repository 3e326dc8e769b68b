"""Labels of an image folder of your own, and students that learn from them: README.md."""
